//! Percentiles of a histogram whose samples are known by bucket only.

/// Counts of samples by bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Upper bound, and the samples in the bucket; ascending, the last bound infinite.
    counts: Vec<(f64, f64)>,
}

/// A percentile in the histogram's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantile {
    /// Somewhere in a bucket with two ends: by linear interpolation.
    At(f64),
    /// The same in the first bucket. Its lower end is 0 by agreement, and the samples may all be far from there.
    InFirst(f64),
    /// In the last bucket, which has no upper end: above this bound.
    Above(f64),
}

impl Buckets {
    /// From `(le, count up to it)` as Prometheus writes them, in any order. A bound that is no number is left out, and
    /// a count that falls where it can only grow reads as the one below it.
    pub fn from_cumulative<'a>(buckets: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        let bound = |(le, count): (&str, f64)| Some((le.parse::<f64>().ok().filter(|le| !le.is_nan())?, count));
        let mut counts: Vec<(f64, f64)> = buckets.into_iter().filter_map(bound).collect();
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut below = 0.0f64;
        for (_, count) in &mut counts {
            let up_to = if count.is_finite() { count.max(below) } else { below };
            *count = up_to - below;
            below = up_to;
        }
        Self { counts }
    }

    /// Upper bound and samples of each bucket, ascending.
    pub fn counts(&self) -> &[(f64, f64)] {
        &self.counts
    }

    /// Samples in all buckets.
    pub fn total(&self) -> f64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// The value that a share of `q`, `0 ..= 1`, of the samples does not pass. As PromQL's `histogram_quantile`:
    /// samples are taken to be spread evenly in their bucket, and the first bucket to begin at 0. `None` without
    /// samples or without an infinite bucket.
    pub fn quantile(&self, q: f64) -> Option<Quantile> {
        let total = self.total();
        let infinite = self.counts.last().is_some_and(|(bound, _)| *bound == f64::INFINITY);
        if !infinite || total <= 0.0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total;
        let (mut lower, mut below, mut first) = (0.0, 0.0, true);
        for &(upper, count) in &self.counts {
            if upper == f64::INFINITY {
                break;
            }
            if count > 0.0 && below + count >= rank {
                let start = if upper > lower { lower } else { upper };
                let value = start + (upper - start) * (rank - below) / count;
                return Some(if first { Quantile::InFirst(value) } else { Quantile::At(value) });
            }
            (lower, below, first) = (upper, below + count, false);
        }
        Some(Quantile::Above(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: [f64; 6] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

    fn cumulative(samples: &[f64]) -> Vec<(String, f64)> {
        let up_to = |bound: f64| samples.iter().filter(|sample| **sample <= bound).count() as f64;
        let mut buckets: Vec<_> = BOUNDS.iter().map(|bound| (bound.to_string(), up_to(*bound))).collect();
        buckets.push(("+Inf".into(), samples.len() as f64));
        buckets
    }

    fn buckets(cumulative: &[(String, f64)]) -> Buckets {
        Buckets::from_cumulative(cumulative.iter().map(|(le, count)| (&le[..], *count)))
    }

    /// The examples of a calculation by hand.
    #[test]
    fn interpolation_is_linear() {
        let four = buckets(&cumulative(&[0.02, 0.03, 0.04, 0.3]));
        assert_eq!(four.total(), 4.0);
        assert_eq!(four.quantile(0.5), Some(Quantile::At(0.01 + 0.04 * 2.0 / 3.0)));
        assert_eq!(four.quantile(1.0), Some(Quantile::At(0.5)));
        assert_eq!(four.quantile(0.875), Some(Quantile::At(0.1 + 0.4 * 0.5)));
        let first = buckets(&cumulative(&[0.001, 0.002]));
        assert_eq!(first.quantile(0.5), Some(Quantile::InFirst(0.005)));
        assert_eq!(buckets(&cumulative(&[9.0])).quantile(0.5), Some(Quantile::Above(5.0)));
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(Buckets::default().quantile(0.5), None);
        assert_eq!(buckets(&cumulative(&[])).quantile(0.5), None);
        assert_eq!(Buckets::from_cumulative([("1", 3.0)]).quantile(0.5), None);
        assert_eq!(Buckets::from_cumulative([("x", 3.0), ("NaN", 1.0)]), Buckets::default());
    }

    proptest! {
        /// Brute force: the smallest sample that as many reach lies in the same bucket.
        #[test]
        fn the_true_percentile_is_in_the_same_bucket(
            samples in prop::collection::vec(0.0005f64..8.0, 1..200), percent in 1u32..=100,
        ) {
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            let exact = sorted[(percent as usize * sorted.len()).div_ceil(100) - 1];
            let found = buckets(&cumulative(&samples)).quantile(f64::from(percent) / 100.0).expect("samples");
            let upper = BOUNDS.iter().copied().find(|bound| exact <= *bound);
            let lower = BOUNDS.iter().rev().copied().find(|bound| exact > *bound).unwrap_or(0.0);
            prop_assert_eq!(matches!(found, Quantile::InFirst(_)), exact <= BOUNDS[0]);
            match (found, upper) {
                (Quantile::At(value) | Quantile::InFirst(value), Some(upper)) => {
                    let inside = lower - 1e-9 <= value && value <= upper + 1e-9;
                    prop_assert!(inside, "{value}, exact {exact}");
                }
                (Quantile::Above(bound), None) => prop_assert_eq!(bound, 5.0),
                (found, _) => prop_assert!(false, "{found:?}, exact {exact}"),
            }
        }

        #[test]
        fn hostile_buckets_do_no_harm(
            hostile in prop::collection::vec((".{0,6}", any::<f64>()), 0..10), q in any::<f64>(),
        ) {
            let _ = buckets(&hostile).quantile(q);
        }
    }
}
