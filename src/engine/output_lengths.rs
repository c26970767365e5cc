//! How long answers become: the chance that a sequence of so many tokens ends with the next one. Pure.
//!
//! What is known of a sequence that ended because it reached its limit is that it did not stop before. So stops are
//! counted against all tokens that were generated, by the length that the sequence had: this needs no sequence to have
//! ended by itself, and a bound as tight as `max_tokens` is used as what it is.

/// Ranges of lengths: 0, 1, 2 to 3, 4 to 7 and so on.
const NUM_RANGES: usize = 24;
/// Tokens of a range above which older ones count half.
const FORGET: f64 = 8192.0;

/// Tokens generated and stops, by the length before the token.
#[derive(Clone, Debug, Default)]
pub struct OutputLengths {
    tokens: [f64; NUM_RANGES],
    stops: [f64; NUM_RANGES],
}

/// What is to be expected of a sequence within some steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stay {
    /// Steps in which it still runs.
    pub steps: f64,
    /// The chance that it runs on after them, `0 ..= 1`.
    pub remains: f64,
}

/// The range of a length.
fn range(length: u32) -> usize {
    ((u32::BITS - length.leading_zeros()) as usize).min(NUM_RANGES - 1)
}

/// The first length above a range.
fn end(range: usize) -> f64 {
    if range + 1 >= NUM_RANGES { f64::INFINITY } else { (1_u64 << range) as f64 }
}

impl OutputLengths {
    /// A sequence that had `length` generated tokens got another one; `stopped`: with it, it ended by itself.
    pub fn observe(&mut self, length: u32, stopped: bool) {
        let index = range(length);
        if self.tokens[index] >= FORGET {
            self.tokens[index] /= 2.0;
            self.stops[index] /= 2.0;
        }
        self.tokens[index] += 1.0;
        if stopped {
            self.observe_stop(length);
        }
    }

    /// The token after `length` others, which was observed before, turned out to be the last.
    pub fn observe_stop(&mut self, length: u32) {
        self.stops[range(length)] += 1.0;
    }

    /// What is to be expected within `steps` steps of a sequence that has `length` generated tokens and ends with
    /// `limit` at the latest.
    pub fn stay(&self, length: u32, limit: u32, steps: f64) -> Stay {
        let left = f64::from(limit.saturating_sub(length));
        let until = f64::from(length) + steps.min(left);
        let (mut at, mut remains, mut expected) = (f64::from(length), 1.0, 0.0);
        let mut rate = 0.0;
        for index in 0..NUM_RANGES {
            let (tokens, stops) = (self.tokens[index], self.stops[index]);
            // Lengths that were never seen are like those below them.
            if tokens > 0.0 {
                rate = stops / tokens;
            }
            let part = end(index).min(until) - at;
            if part <= 0.0 {
                continue;
            }
            let after = (-rate * part).exp();
            expected += if rate * part > 1e-9 { remains * (1.0 - after) / rate } else { remains * part };
            remains *= after;
            at += part;
        }
        Stay { steps: expected, remains: if steps >= left { 0.0 } else { remains } }
    }

    /// Tokens that a new sequence is expected to generate.
    pub fn expected(&self, limit: u32) -> f64 {
        self.stay(0, limit, f64::INFINITY).steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_stop_a_sequence_runs_to_its_limit() {
        let mut lengths = OutputLengths::default();
        assert_eq!(lengths.expected(100), 100.0);
        (0..50).for_each(|length| lengths.observe(length, false));
        assert_eq!(lengths.stay(30, 100, 20.0), Stay { steps: 20.0, remains: 1.0 });
        assert_eq!(lengths.stay(30, 100, 70.0), Stay { steps: 70.0, remains: 0.0 });
        assert_eq!(lengths.stay(100, 100, 5.0), Stay { steps: 0.0, remains: 0.0 });
    }

    #[test]
    fn a_constant_chance_gives_its_mean() {
        let mut lengths = OutputLengths::default();
        // One token in 50 ends its sequence, whatever the length; none is longer than 400.
        for length in 0..400 {
            (0..50).for_each(|i| lengths.observe(length, i == 0));
        }
        for length in [0, 3, 100, 399, 5000] {
            let stay = lengths.stay(length, 100_000, f64::INFINITY);
            assert!((stay.steps - 50.0).abs() < 1.0, "{length}: {stay:?}");
        }
        let stay = lengths.stay(7, 1000, 50.0);
        assert!((stay.remains - (-1.0_f64).exp()).abs() < 0.01, "{stay:?}");
        assert!((stay.steps - 50.0 * (1.0 - (-1.0_f64).exp())).abs() < 0.5, "{stay:?}");
        assert!(lengths.expected(10) < 10.0 && lengths.expected(10) > 8.5);
    }

    #[test]
    fn ranges_follow_each_other() {
        assert_eq!([0, 1, 2, 3, 4, 7, 8, u32::MAX].map(range), [0, 1, 2, 2, 3, 3, 4, NUM_RANGES - 1]);
        assert_eq!([0, 1, 2, 3].map(end), [1.0, 2.0, 4.0, 8.0]);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut lengths = OutputLengths::default();
        (0..100_000).for_each(|_| lengths.observe(20, true));
        (0..100_000).for_each(|_| lengths.observe(20, false));
        assert!(lengths.stay(20, 30, 10.0).steps > 9.9);
    }
}
