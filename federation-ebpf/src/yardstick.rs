//! What the benchmark runs: the data plane's own programs in a form that can be repeated, and what they are held
//! against. Never shipped: the agent does not embed this object.
//!
//! The kernel repeats a program on one packet without putting the bytes back, so each program here does that itself, and
//! what it costs is measured in the same way, by an empty program that does it too.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;

/// There is nothing to run on a host.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod measured {
    use aya_ebpf::{
        bindings::{TC_ACT_UNSPEC, xdp_action},
        btf_maps::PerCpuArray,
        helpers::generated::{bpf_skb_change_tail, bpf_skb_load_bytes, bpf_xdp_load_bytes},
        macros::{btf_map, classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use federation_ebpf::{
        checksum::Difference,
        frame::Frame as _,
        maps::{FlowKey, Protocol},
        packet::{self, Bytes as _},
    };

    use super::programs::{
        Reach, Skb, XdpFrame,
        maps::{ALLOWANCE, FLOWS_V4},
        reply, tc_verdict, to_vip, xdp_verdict,
    };

    /// Headers of Ethernet, IPv6 and TCP without options, and a little more: all that a program rewrites.
    type Headers = [u64; 10];

    /// What it costs to run any program at all.
    #[classifier]
    pub fn empty(_: TcContext) -> i32 {
        TC_ACT_UNSPEC
    }

    /// What putting the headers back costs.
    #[classifier]
    pub fn empty_restored(ctx: TcContext) -> i32 {
        restored(&ctx, |_| TC_ACT_UNSPEC)
    }

    #[classifier]
    pub fn from_pod_restored(ctx: TcContext) -> i32 {
        restored(&ctx, |skb| tc_verdict(skb, to_vip::outcome(skb, Reach::Anywhere)))
    }

    #[classifier]
    pub fn to_pod_restored(ctx: TcContext) -> i32 {
        restored(&ctx, |skb| tc_verdict(skb, reply::outcome(skb)))
    }

    /// The least that translating takes by this kernel's means: read the tuple, look it up, write the packet once. No
    /// state, no health, no clock, no counter, no second family, no checksum but a complete one.
    #[classifier]
    pub fn floor_restored(ctx: TcContext) -> i32 {
        restored(&ctx, |skb| floor(skb).unwrap_or(TC_ACT_UNSPEC))
    }

    /// `from_pod` on the first packet of another connection each time.
    #[classifier]
    pub fn from_pod_first(ctx: TcContext) -> i32 {
        restored(&ctx, |skb| {
            anew(skb);
            tc_verdict(skb, to_vip::outcome(skb, Reach::Anywhere))
        })
    }

    /// What making it another connection costs.
    #[classifier]
    pub fn empty_first(ctx: TcContext) -> i32 {
        restored(&ctx, |skb| {
            anew(skb);
            TC_ACT_UNSPEC
        })
    }

    /// `from_pod` on a packet that is refused, with an allowance that is always full.
    #[classifier]
    pub fn from_pod_refused(ctx: TcContext) -> i32 {
        if let Some(bucket) = ALLOWANCE.get_ptr_mut(0) {
            // SAFETY: this CPU's own element of a per-CPU array.
            unsafe { (*bucket).full_at = 0 };
        }
        reshaped(&ctx, |skb| tc_verdict(skb, to_vip::outcome(skb, Reach::Anywhere)))
    }

    /// What putting a packet's length back costs.
    #[classifier]
    pub fn empty_reshaped(ctx: TcContext) -> i32 {
        reshaped(&ctx, |_| TC_ACT_UNSPEC)
    }

    #[xdp]
    pub fn edge_restored(ctx: XdpContext) -> u32 {
        xdp_restored(&ctx, |frame| xdp_verdict(frame, to_vip::outcome(frame, Reach::Local)))
    }

    #[xdp]
    pub fn empty_xdp(_: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    #[xdp]
    pub fn empty_xdp_restored(ctx: XdpContext) -> u32 {
        xdp_restored(&ctx, |_| xdp_action::XDP_PASS)
    }

    /// Connections that were made up.
    #[btf_map]
    static CONNECTIONS: PerCpuArray<u32, 1> = PerCpuArray::new();

    /// The headers as they came: not on the stack, of which the programs need all that there is.
    #[btf_map]
    static SAVED: PerCpuArray<Headers, 1> = PerCpuArray::new();

    #[inline(always)]
    fn restored(ctx: &TcContext, program: impl FnOnce(Skb) -> i32) -> i32 {
        let skb = Skb(ctx.skb.skb);
        let Some(saved) = SAVED.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
        // SAFETY: the helper writes all of this CPU's own element.
        if unsafe { bpf_skb_load_bytes(skb.0.cast(), 0, saved.cast(), size_of::<Headers>() as u32) } != 0 {
            return TC_ACT_UNSPEC;
        }
        let verdict = program(skb);
        // SAFETY: as above.
        let _ = skb.store(0, unsafe { &*saved });
        verdict
    }

    /// As [`restored`], of a packet that becomes shorter: at least as long as what of it is put back.
    #[inline(always)]
    fn reshaped(ctx: &TcContext, program: impl FnOnce(Skb) -> i32) -> i32 {
        type Least = [u16; 27];
        let skb = Skb(ctx.skb.skb);
        let length = skb.length() as u32;
        let Some(saved) = SAVED.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
        let saved = saved.cast::<Least>();
        // SAFETY: the helper writes what fits into this CPU's own element.
        if unsafe { bpf_skb_load_bytes(skb.0.cast(), 0, saved.cast(), size_of::<Least>() as u32) } != 0 {
            return TC_ACT_UNSPEC;
        }
        let verdict = program(skb);
        // SAFETY: as above; the helper checks the length.
        unsafe {
            let _ = bpf_skb_change_tail(skb.0, length, 0);
            let _ = skb.store(0, &*saved);
        }
        verdict
    }

    #[inline(always)]
    fn xdp_restored(ctx: &XdpContext, program: impl FnOnce(XdpFrame) -> u32) -> u32 {
        let frame = XdpFrame(ctx.ctx);
        let Some(saved) = SAVED.get_ptr_mut(0) else { return xdp_action::XDP_PASS };
        // SAFETY: the helper writes all of this CPU's own element.
        if unsafe { bpf_xdp_load_bytes(frame.0, 0, saved.cast(), size_of::<Headers>() as u32) } != 0 {
            return xdp_action::XDP_PASS;
        }
        let verdict = program(frame);
        // SAFETY: as above.
        let _ = frame.store(0, unsafe { &*saved });
        verdict
    }

    /// Gives the IPv4 packet another source: one of 2^20, four times as many as the flows that are remembered.
    #[inline(always)]
    fn anew(skb: Skb) {
        const SOURCE: usize = 14 + 12;
        const PORT: usize = 14 + 20;
        let Some(count) = CONNECTIONS.get_ptr_mut(0) else { return };
        // SAFETY: this CPU's own element of a per-CPU array.
        let number = unsafe {
            *count = (*count).wrapping_add(1);
            *count
        };
        let _ = skb.store(SOURCE, &(0x0a08_0000 | number >> 12 & 0xff).to_be());
        let _ = skb.store(PORT, &(0x8000 | number as u16 & 0x0fff).to_be());
    }

    #[inline(always)]
    fn floor(skb: Skb) -> Option<i32> {
        /// From the time to live of the IPv4 header to the end of the TCP header.
        const WINDOW: usize = 14 + 8;
        let kind = skb.read::<u16>(12)?;
        let mut window = skb.read::<[u32; 8]>(WINDOW)?;
        if kind != 0x0800_u16.to_be() {
            return None;
        }
        let (source, destination) = (window[1].to_ne_bytes(), window[2].to_ne_bytes());
        let (source_port, destination_port) = packet::ports(window[3]);
        let key = FlowKey::new(source, source_port, destination, destination_port, Protocol::Tcp);
        // SAFETY: entries are not freed while the program runs.
        let flow = unsafe { FLOWS_V4.get(&key) }?;
        let address = Difference::default().address(destination, flow.address);
        let both = address.word(destination_port, flow.port);
        let (header, transport) = (u32::from_be(window[0]), u32::from_be(window[7]));
        window[0] = (header & 0xffff_0000 | u32::from(address.apply(header as u16))).to_be();
        window[2] = u32::from_ne_bytes(flow.address);
        window[3] = packet::ports_word(source_port, flow.port);
        window[7] = (transport & 0xffff | u32::from(both.apply((transport >> 16) as u16)) << 16).to_be();
        skb.store(WINDOW, &window).ok()?;
        Some(TC_ACT_UNSPEC)
    }
}
