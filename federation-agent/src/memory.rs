//! What the allocator keeps to itself, told to keep less: an agent runs on every node, beside those for whom the node is
//! there. Other allocators than glibc's are left as they are.

/// An arena for each of a node's many cores would keep what was freed there. To be called before there are other threads.
pub fn keep_together() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread is there yet. Refused, everything goes on as it is.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives pages back that hold nothing any more: reading a large federation for the first time leaves many.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
