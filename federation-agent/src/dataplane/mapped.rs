//! Elements of an array map in the agent's own memory: read and written without a system call, and without a copy.
//!
//! Only for arrays that were made with `BPF_F_MMAPABLE` (kernel 5.5).

use std::{
    io,
    num::NonZeroUsize,
    ops::{Deref, Range},
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};

/// The kernel keeps elements of arrays apart by a multiple of this (`array_map_alloc`).
const STRIDE: usize = 8;

/// An element as it lies in memory, as long as the kernel keeps elements apart.
///
/// # Safety
/// It consists of atomic numbers, for which any bits will do, and of padding.
pub(super) unsafe trait Element {}

/// A number as wide as elements are apart.
#[repr(transparent)]
pub(super) struct Word(pub AtomicU64);

// SAFETY: as it stands there.
unsafe impl Element for Word {}

/// Elements that programs read and write meanwhile.
pub(super) struct Mapped<T> {
    /// Whole pages.
    pages: NonNull<libc::c_void>,
    length: usize,
    first: NonNull<T>,
    count: usize,
}

impl<T: Element> Mapped<T> {
    /// These elements of `map`.
    ///
    /// # Errors
    /// The map does not have them, or cannot be mapped.
    pub(super) fn of(map: &MapData, elements: Range<u32>) -> Result<Self> {
        let info = map.info().context("ask for the map's sizes")?;
        let apart = (info.value_size() as usize).next_multiple_of(STRIDE);
        ensure!(apart == size_of::<T>(), "elements lie {apart} bytes apart, not {}", size_of::<T>());
        let has = info.max_entries();
        ensure!(elements.end <= has, "the array ends with element {has}, before {}", elements.end);
        let page = page_size()?;
        let (start, end) = (elements.start as usize * apart, elements.end as usize * apart);
        let offset = start / page * page;
        let length = NonZeroUsize::new(end.saturating_sub(offset)).context("no element was asked for")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice. It outlives the descriptor.
        let pages = unsafe {
            mmap(None, length, access, MapFlags::MAP_SHARED, map.fd().as_fd(), i64::try_from(offset)?)
        };
        let pages = pages.map_err(io::Error::from).context("map the array into memory")?;
        // SAFETY: within the mapping.
        let first = unsafe { pages.byte_add(start - offset) }.cast();
        Ok(Self { pages, length: length.get(), first, count: elements.len() })
    }
}

impl<T: Element> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: they are as far apart as their type is long, and aligned to a page or a multiple of their length from
        // one; the mapping lives as long as `self`; by the trait's promise, whatever is in it will do.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, of which no reference is left. It cannot fail then.
        let _ = unsafe { munmap(self.pages, self.length) };
    }
}

// SAFETY: a mapping belongs to the process and not to a thread.
unsafe impl<T> Send for Mapped<T> {}

// SAFETY: as shared as its elements, of which it hands out references alone.
unsafe impl<T: Sync> Sync for Mapped<T> {}

fn page_size() -> Result<usize> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("the system has no page size")?;
    Ok(usize::try_from(size)?)
}
