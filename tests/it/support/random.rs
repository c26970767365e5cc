//! Seeded random numbers for tests (SplitMix64), and the printing of a seed that failed.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// Of `low ..= high`.
    pub fn range(&mut self, low: u32, high: u32) -> u32 {
        low + (self.next() % u64::from(high - low + 1)) as u32
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.range(1, n) == 1
    }

    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.range(0, values.len() as u32 - 1) as usize]
    }

    /// Of `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
}

/// Prints how to run a case again, when dropped by a panic.
pub struct Replay {
    pub variable: &'static str,
    pub seed: u64,
}

impl Drop for Replay {
    #[expect(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to run it again: {}={}", self.variable, self.seed);
        }
    }
}

/// The seeds to run: `<name>_SEED` alone, or else `0 .. <name>_SEEDS`, by default `0 .. default`.
pub fn seeds(seed: &str, seeds: &str, default: u64) -> std::ops::Range<u64> {
    let read = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    match read(seed) {
        Some(seed) => seed..seed + 1,
        None => 0..read(seeds).unwrap_or(default),
    }
}
