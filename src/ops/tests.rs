//! What the tests of several ops share.

pub mod definitions;

use super::Ctx;
use super::pool::Pool;
use crate::kernels::Isa;

/// A small generator for test data: xorshift64*, seeded from `LLORCH_TEST_SEED` or else `default`, and printed.
pub struct TestRng(u64);

impl TestRng {
    pub fn new(default: u64) -> Self {
        let seed = std::env::var("LLORCH_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
        #[expect(clippy::print_stderr, reason = "shown when the test fails")]
        {
            eprintln!("LLORCH_TEST_SEED={seed}");
        }
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in `-scale..scale`.
    pub fn float(&mut self, scale: f32) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    }

    pub fn floats(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.float(scale)).collect()
    }
}

/// Calls `f` on every path of this machine with 1, 2 and 3 threads.
pub fn for_each_ctx(mut f: impl FnMut(&Ctx<'_>)) {
    for threads in 1..=3 {
        let pool = Pool::new(threads).unwrap();
        for isa in Isa::available() {
            f(&Ctx { pool: &pool, isa });
        }
    }
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
