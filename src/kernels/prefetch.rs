//! Fetching weights from memory while others are computed with.
//!
//! Origin: software prefetch as every streaming kernel has it, here paced by the computation instead of by a distance.
//!
//! ```text
//! segment s of a panel:      tile 0      tile 1      tile 2        computed from L1
//! lines of segment s + 1:   [ 1st third | 2nd third | 3rd third ]  arriving meanwhile
//! ```
//!
//! 1. The lines are spread evenly over the steps of the computation: bursts would fill the miss buffers and stall.
//! 2. They are fetched into L2: L1 has no room for two segments beside the activations, and measured slower with them.
//! 3. A single tile reads its lines once, as a stream: with each goes the prefetch of the one 16 KB behind it
//!    ([`fetch_beyond`]), so that the miss buffers empty between two. In bursts of 17 to 19 lines two cores of an
//!    Emerald Rapids read 20 to 23 GB/s of Q4_K, one by one 24 to 26.
//! 4. The hardware prefetcher stops at page borders and needs a few lines to start; this does neither.
#![allow(unsafe_code)]

use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::panel::{Line, STREAM_DISTANCE};

/// Hands out lines in equal shares, one share a step.
pub struct Prefetch<'a>(std::slice::Chunks<'a, Line>);

impl<'a> Prefetch<'a> {
    #[inline]
    pub fn new(ahead: &'a [Line], steps: usize) -> Self {
        Self(ahead.chunks(ahead.len().div_ceil(steps.max(1)).max(1)))
    }

    #[inline]
    pub fn step(&mut self) {
        for line in self.0.next().unwrap_or_default() {
            fetch(line);
        }
    }
}

/// Starts to bring `count` lines into L2, from [`STREAM_DISTANCE`] behind line `first` of `lines` on. They may lie
/// behind the end of `lines` and of all weights.
#[inline]
pub fn fetch_beyond(lines: &[Line], first: usize, count: usize) {
    for line in first..first + count {
        // SAFETY: as in `fetch`: the address need not be one of this program's.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(lines.as_ptr().wrapping_add(STREAM_DISTANCE + line).cast()) };
    }
}

/// Starts to bring a line into L2.
#[inline]
pub fn fetch(line: &Line) {
    // SAFETY: a prefetch changes nothing the program can see; SSE is part of every x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.0.as_ptr().cast()) };
}
