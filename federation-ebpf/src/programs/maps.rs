//! The maps, and the constants that the agent sets at load time.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use federation_ebpf::{
    address::Address,
    filter,
    maps::{self, Backend, Counter, Flow, FlowKey, Frontend, FrontendKey, Range},
};

type Frontends<A> = HashMap<FrontendKey<A>, Frontend, { maps::FRONTENDS }>;
type Backends<A> = Array<Backend<A>, { maps::BACKENDS }>;
type Flows<A> = LruHashMap<FlowKey<A>, Flow<A>, { maps::FLOWS }>;

/// (VIP, protocol, port) to table.
#[btf_map]
pub static FRONTENDS_V4: Frontends<[u8; 4]> = HashMap::new();

/// Maglev slots of all tables, each a slice of this array, to backend ids.
#[btf_map]
pub static SLOTS: Array<u32, { maps::SLOTS }> = Array::new();

/// Backend id to address, port and state.
#[btf_map]
pub static BACKENDS_V4: Backends<[u8; 4]> = Array::new();

/// Five-tuple to translation, for both directions of every connection.
#[btf_map]
pub static FLOWS_V4: Flows<[u8; 4]> = LruHashMap::new();

/// One bit a hash of (backend address, port).
#[btf_map]
pub static RETURN_FILTER: Array<u64, { filter::WORDS as usize }> = Array::new();

/// Packets, bytes and flows by frontend id.
#[btf_map]
pub static FRONTEND_COUNTERS: PerCpuArray<Counter, { maps::FRONTENDS }> = PerCpuArray::new();

/// Packets, bytes and flows by backend id.
#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<Counter, { maps::BACKENDS }> = PerCpuArray::new();

/// Packets by outcome.
#[btf_map]
pub static OUTCOMES: PerCpuArray<u64, { maps::OUTCOMES }> = PerCpuArray::new();

/// The range that VIPs are taken from.
#[unsafe(no_mangle)]
static VIP_V4: Range<[u8; 4]> = Range { network: [0; 4], mask: [255; 4] };

/// A family of IP with its maps.
pub trait Family {
    type Address: Address;

    fn is_vip(address: Self::Address) -> bool;
    fn frontends() -> &'static Frontends<Self::Address>;
    fn backends() -> &'static Backends<Self::Address>;
    fn flows() -> &'static Flows<Self::Address>;
}

pub struct V4;

impl Family for V4 {
    type Address = [u8; 4];

    #[inline(always)]
    fn is_vip(address: [u8; 4]) -> bool {
        // SAFETY: a constant of the loaded program, aligned to words and of as many; volatile, for the compiler knows
        // only what it was built with, and by words, for it would load each byte by itself.
        let [network, mask] = unsafe { core::ptr::read_volatile((&raw const VIP_V4).cast::<[u32; 2]>()) };
        Range { network: network.to_ne_bytes(), mask: mask.to_ne_bytes() }.contains(address)
    }

    #[inline(always)]
    fn frontends() -> &'static Frontends<[u8; 4]> {
        &FRONTENDS_V4
    }

    #[inline(always)]
    fn backends() -> &'static Backends<[u8; 4]> {
        &BACKENDS_V4
    }

    #[inline(always)]
    fn flows() -> &'static Flows<[u8; 4]> {
        &FLOWS_V4
    }
}
