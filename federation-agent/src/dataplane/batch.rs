//! Many elements of a map in one system call, which aya does not offer: an eighth of the time that reading them one by
//! one takes.
//!
//! The layout is `struct { ... } batch` in `union bpf_attr` of `linux/bpf.h` (kernel 5.6).

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    ptr,
};

use anyhow::{Context as _, Result, ensure};
use aya::{Pod, maps::MapData};
use libc::c_int;

use super::syscall::{address, bpf};

/// Numbers of `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: c_int = 24;
const BPF_MAP_UPDATE_BATCH: c_int = 26;

/// Elements that are asked for at once. More does not make it faster.
const STEP: usize = 4096;

/// `bpf_attr` as far as these commands read it.
#[repr(C)]
#[derive(Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Every element. Of a hash map that changes meanwhile, an element may be missed or come twice.
pub(super) fn read<K: Pod, V: Pod>(map: &MapData) -> Result<Vec<(K, V)>> {
    lookup(map, None, usize::MAX)
}

/// `count` values of an array, from `first` on.
pub(super) fn read_array<V: Pod>(map: &MapData, first: u32, count: u32) -> Result<Vec<V>> {
    let elements = lookup::<u32, V>(map, first.checked_sub(1), count as usize)?;
    ensure!(elements.len() == count as usize, "the array ends before element {first} + {count}");
    Ok(elements.into_iter().map(|(_, value)| value).collect())
}

/// Replaces the values of an array, from `first` on.
pub(super) fn write_array<V: Pod>(map: &MapData, first: u32, values: &[V]) -> Result<()> {
    check_sizes::<u32, V>(map)?;
    let keys: Vec<u32> = (first..).take(values.len()).collect();
    let mut attr = Attr {
        keys: address(keys.as_ptr()),
        values: address(values.as_ptr()),
        count: u32::try_from(values.len()).context("more values than an array can have")?,
        map_fd: descriptor(map)?,
        ..Attr::default()
    };
    // SAFETY: as many keys and values as said, of the sizes that the map has, which live until the call is over.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }
        .with_context(|| format!("{} of {} values were written", attr.count, values.len()))
        .map(drop)
}

/// At most `limit` elements; of an array, those that follow the element `after`.
fn lookup<K: Pod, V: Pod>(map: &MapData, after: Option<u32>, limit: usize) -> Result<Vec<(K, V)>> {
    check_sizes::<K, V>(map)?;
    // Where the kernel goes on: an array's key or a hash map's bucket.
    let mut position = after;
    let mut elements = Vec::new();
    let mut room = STEP.min(limit);
    let (mut keys, mut values): (Vec<K>, Vec<V>) = (Vec::new(), Vec::new());
    while elements.len() < limit {
        let wanted = room.min(limit - elements.len());
        keys.reserve(wanted);
        values.reserve(wanted);
        let mut next = 0_u32;
        let mut attr = Attr {
            in_batch: position.as_ref().map_or(0, |position| address(ptr::from_ref(position))),
            out_batch: address(ptr::from_mut(&mut next)),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: u32::try_from(wanted).context("more elements than a map can have")?,
            map_fd: descriptor(map)?,
            ..Attr::default()
        };
        // SAFETY: there is room for as many keys and values as said, of the sizes that the map has, and for a position;
        // all of it lives until the call is over.
        let outcome = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let ended = match outcome {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // A bucket of the hash map holds more elements than were asked for. Nothing was read.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                continue;
            }
            Err(error) => return Err(error).context("look up elements by the batch"),
        };
        let read = attr.count as usize;
        // SAFETY: the kernel has written this many of each, and never says more than it was asked for.
        unsafe {
            keys.set_len(read);
            values.set_len(read);
        }
        elements.extend(keys.drain(..).zip(values.drain(..)));
        if ended {
            break;
        }
        position = Some(next);
    }
    Ok(elements)
}

/// What the kernel copies is as large as the map's definition says: ours must be too.
fn check_sizes<K, V>(map: &MapData) -> Result<()> {
    let info = map.info().context("ask for the map's sizes")?;
    let found = (info.key_size() as usize, info.value_size() as usize);
    let expected = (size_of::<K>(), size_of::<V>());
    ensure!(found == expected, "keys and values are of {found:?} bytes, where {expected:?} are expected");
    Ok(())
}

fn descriptor(map: &MapData) -> Result<u32> {
    u32::try_from(map.fd().as_fd().as_raw_fd()).context("a map without a descriptor")
}

#[cfg(test)]
mod tests {
    use std::mem;

    use super::*;

    #[test]
    fn the_attribute_is_laid_out_as_the_kernel_reads_it() {
        assert_eq!(mem::offset_of!(Attr, count), 32);
        assert_eq!(mem::offset_of!(Attr, map_fd), 36);
        assert_eq!(mem::offset_of!(Attr, elem_flags), 40);
        assert_eq!(size_of::<Attr>(), 56);
    }
}
