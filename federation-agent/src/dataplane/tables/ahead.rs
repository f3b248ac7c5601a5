//! Work that is done by other threads while this one is at something else.

use std::{
    num::NonZero,
    panic::resume_unwind,
    thread::{self, Scope, ScopedJoinHandle},
};

/// Items that take less to be worked on than threads take to be started.
const FEW: usize = 8;

/// Items that are worked on.
pub(super) struct Ahead<'scope, T> {
    done: Vec<T>,
    /// The last items first.
    threads: Vec<ScopedJoinHandle<'scope, Vec<T>>>,
}

/// Has `work` done to each item: by as many threads as there are processors, or here and now if they are few.
pub(super) fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut items: Vec<T>,
    work: impl Fn(&mut T) + Copy + Send + 'scope,
) -> Ahead<'scope, T> {
    if items.len() <= FEW {
        items.iter_mut().for_each(work);
        return Ahead { done: items, threads: Vec::new() };
    }
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let each = items.len().div_ceil(processors);
    let mut threads = Vec::new();
    while !items.is_empty() {
        let mut last = items.split_off(items.len().saturating_sub(each));
        threads.push(scope.spawn(move || {
            last.iter_mut().for_each(work);
            last
        }));
    }
    Ahead { done: items, threads }
}

impl<T> Ahead<'_, T> {
    /// The items, in their order, each as soon as its thread is done.
    pub(super) fn finish(self) -> impl Iterator<Item = T> {
        let wait =
            |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        self.done.into_iter().chain(self.threads.into_iter().rev().flat_map(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_and_keeps_its_place() {
        for count in [0, 1, FEW, FEW + 1, 1000] {
            let done = thread::scope(|scope| {
                start(scope, (0..count).collect(), |item| *item *= 2).finish().collect::<Vec<_>>()
            });
            assert!(done.into_iter().eq((0..count).map(|item| item * 2)), "{count}");
        }
    }
}
