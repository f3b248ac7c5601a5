//! The maps, and the constants that the agent sets at load time.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use federation_ebpf::{
    address::Address,
    answer::Answer,
    bucket::Bucket,
    filter,
    maps::{
        self, Backend, Counter, Event, Flow, FlowKey, FragmentKey, Frontend, FrontendKey, HostNetwork,
        Jiffies, Ports, Range, SocketKey, SocketPeer, Use,
    },
    slots::{Table, Word},
};

use super::scratch::Room;

/// Not allocated in advance: an entry that is replaced is then kept until the programs that may read it have left, and
/// not handed to another key at once (kernel: `htab_lru_map_delete_node`, `free_htab_elem`).
type Frontends<A> = HashMap<FrontendKey<A>, Frontend, { maps::FRONTENDS }, { BPF_F_NO_PREALLOC as usize }>;
type Backends<A> = Array<Backend<A>, { maps::BACKENDS }>;
type Flows<A> = LruHashMap<FlowKey<A>, Flow<A>, { maps::FLOWS }>;
type Fragments<A> = LruHashMap<FragmentKey<A>, Ports, { maps::FRAGMENTS }>;

/// (VIP, protocol, port) to table.
#[btf_map]
pub static FRONTENDS_V4: Frontends<[u8; 4]> = HashMap::new();
#[btf_map]
pub static FRONTENDS_V6: Frontends<[u8; 16]> = HashMap::new();

/// Maglev slots of all tables, each a slice of this array, with the ids of its backends.
#[btf_map]
pub static SLOTS: Array<Word, { maps::SLOTS }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Backend id to address, port and state. An id is used in one of the two.
#[btf_map]
pub static BACKENDS_V4: Backends<[u8; 4]> = Array::new();
#[btf_map]
pub static BACKENDS_V6: Backends<[u8; 16]> = Array::new();

/// Five-tuple to translation, for both directions of every connection.
#[btf_map]
pub static FLOWS_V4: Flows<[u8; 4]> = LruHashMap::new();
#[btf_map]
pub static FLOWS_V6: Flows<[u8; 16]> = LruHashMap::new();

/// A fragmented datagram to its ports.
#[btf_map]
pub static FRAGMENTS_V4: Fragments<[u8; 4]> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS_V6: Fragments<[u8; 16]> = LruHashMap::new();

/// Sockets of the node's own network, both ways: from a VIP to a backend and back.
#[btf_map]
pub static SOCKETS: LruHashMap<SocketKey, SocketPeer, { maps::SOCKETS }> = LruHashMap::new();

/// One bit a hash of (backend address, port), of both families.
#[btf_map]
pub static RETURN_FILTER: Array<u64, { filter::WORDS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Packets, bytes and flows by frontend id.
#[btf_map]
pub static FRONTEND_COUNTERS: PerCpuArray<Counter, { maps::FRONTENDS }> = PerCpuArray::new();

/// Packets, bytes and flows by backend id.
#[btf_map]
pub static BACKEND_COUNTERS: PerCpuArray<Counter, { maps::BACKENDS }> = PerCpuArray::new();

/// Who is used, and who lets clients wait, by backend id. The agent maps it into its memory: it looks twice a second, for
/// what may be a hundred thousand backends.
#[btf_map]
pub static BACKEND_USE: Array<Use, { maps::BACKENDS }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The tick at which a backend of a cluster last granted a connection, by the cluster's number.
#[btf_map]
pub static CLUSTER_ANSWERS: Array<u32, { maps::CLUSTERS }> = Array::new();

/// Packets by outcome.
#[btf_map]
pub static OUTCOMES: PerCpuArray<u64, { maps::OUTCOMES }> = PerCpuArray::new();

/// How many refusals may still leave.
#[btf_map]
pub static ALLOWANCE: PerCpuArray<Bucket, 1> = PerCpuArray::new();

/// Memory for the packet in hand.
#[btf_map]
pub static SCRATCH: PerCpuArray<Room, 1> = PerCpuArray::new();

/// What the agent is told of.
#[btf_map]
pub static EVENTS: RingBuf<Event, { maps::EVENTS }> = RingBuf::new();

/// The ranges that VIPs are taken from.
#[unsafe(no_mangle)]
static VIP_V4: Range<[u8; 4]> = Range { network: [0; 4], mask: [255; 4] };
#[unsafe(no_mangle)]
static VIP_V6: Range<[u8; 16]> = Range { network: [0; 16], mask: [255; 16] };

#[unsafe(no_mangle)]
static JIFFIES: Jiffies = Jiffies { nanoseconds: 0, first: 0 };

#[unsafe(no_mangle)]
static HOST: HostNetwork = HostNetwork { cookie: 0, client: 0, reserved: 0 };

/// Whose sockets are translated.
#[inline(always)]
pub fn host() -> HostNetwork {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const HOST) }
}

/// How this kernel counts time.
#[inline(always)]
pub fn jiffies() -> Jiffies {
    // SAFETY: a constant of the loaded program; volatile, for the compiler knows only what it was built with.
    unsafe { core::ptr::read_volatile(&raw const JIFFIES) }
}

/// A family of IP with its maps.
pub trait Family {
    type Address: Answer;

    fn is_vip(address: Self::Address) -> bool;
    fn frontends() -> &'static Frontends<Self::Address>;
    fn backends() -> &'static Backends<Self::Address>;
    fn flows() -> &'static Flows<Self::Address>;
    fn fragments() -> &'static Fragments<Self::Address>;
}

macro_rules! family {
    ($name:ident, $address:ty, $range:ident, $words:ty, $frontends:ident, $backends:ident, $flows:ident, $fragments:ident) => {
        pub struct $name;

        impl Family for $name {
            type Address = $address;

            #[inline(always)]
            fn is_vip(address: $address) -> bool {
                // SAFETY: a constant of the loaded program, aligned to these words and of as many; volatile, for the
                // compiler knows only what it was built with, and by words, for it would load each byte by itself.
                let words = unsafe { core::ptr::read_volatile((&raw const $range).cast::<$words>()) };
                // SAFETY: words and range are made of the same bytes, of which any make a range.
                address.is_in(&unsafe { core::mem::transmute::<$words, Range<$address>>(words) })
            }

            #[inline(always)]
            fn frontends() -> &'static Frontends<$address> {
                &$frontends
            }

            #[inline(always)]
            fn backends() -> &'static Backends<$address> {
                &$backends
            }

            #[inline(always)]
            fn flows() -> &'static Flows<$address> {
                &$flows
            }

            #[inline(always)]
            fn fragments() -> &'static Fragments<$address> {
                &$fragments
            }
        }
    };
}

family!(V4, [u8; 4], VIP_V4, [u32; 2], FRONTENDS_V4, BACKENDS_V4, FLOWS_V4, FRAGMENTS_V4);
family!(V6, [u8; 16], VIP_V6, [u64; 4], FRONTENDS_V6, BACKENDS_V6, FLOWS_V6, FRAGMENTS_V6);

/// The id of the backend in a slot.
#[inline(always)]
pub fn id_in(table: Table, slot: u32) -> Option<u32> {
    table.id(slot, |word| SLOTS.get(word).copied().map(u64::from))
}
