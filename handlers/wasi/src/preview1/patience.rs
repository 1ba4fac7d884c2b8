//! Guests that are told the same again and again, and do nothing about it.
//!
//! poll_oneoff is level-triggered: a socket that can be written to is said to be so every time. The event loops that
//! guests of 2022 were compiled with (mio_wasi 0.8.6 and before) expect to be told once; with a connection that is
//! idle they would take all of a processor, and did. So a guest that has been told nothing new for some time, and has
//! not used what it was told of, gets the same answer later, by and by up to [`LONGEST`]. Whatever is new it gets at once.

use std::cell::Cell;

/// As many times it is told without delay: a guest may ask twice.
const FREE: u32 = 3;
/// The first delay, in nanoseconds; each is twice as long as the one before.
const FIRST: u64 = 1_000_000;
/// The longest, in nanoseconds.
const LONGEST: u64 = 64 * FIRST;

/// How often a guest was told in vain.
#[derive(Default)]
pub struct Patience(Cell<u32>);

impl Patience {
    /// How long to wait with an answer, in nanoseconds, that has or has not something new in it.
    pub fn with(&self, anything_new: bool) -> Option<u64> {
        let times = if anything_new { 0 } else { self.0.get().saturating_add(1) };
        self.0.set(times);
        let delays = times.checked_sub(FREE + 1)?;
        Some(FIRST.checked_shl(delays).map_or(LONGEST, |it| it.min(LONGEST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_until_there_is_something_new() {
        let patience = Patience::default();
        let delays: Vec<_> = (0..6).map(|_| patience.with(false)).collect();
        assert_eq!(delays, [None, None, None, Some(FIRST), Some(2 * FIRST), Some(4 * FIRST)]);
        assert_eq!((0..100).filter_map(|_| patience.with(false)).max(), Some(LONGEST));
        assert_eq!(patience.with(true), None);
        assert_eq!(patience.with(false), None);
    }
}
