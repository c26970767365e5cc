//! Exact figures of a set of samples: all are kept and sorted.

/// Mean, percentiles and maximum. All 0 where there are no samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    pub count: usize,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Statistics {
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let Some(max) = samples.last().copied() else { return Self::default() };
        Self {
            count: samples.len(),
            mean: samples.iter().sum::<f64>() / samples.len() as f64,
            p50: percentile(&samples, 50.0),
            p90: percentile(&samples, 90.0),
            p99: percentile(&samples, 99.0),
            max,
        }
    }

    /// Every figure times `factor`; the count stays.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            count: self.count,
            mean: self.mean * factor,
            p50: self.p50 * factor,
            p90: self.p90 * factor,
            p99: self.p99 * factor,
            max: self.max * factor,
        }
    }
}

/// The `percent` percentile of sorted samples, between two of them by linear interpolation (numpy's default). 0 where
/// there are none.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
    let below = position as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::random::Random;

    /// Brute force: of samples spread over whole positions, the percentile is where `percent` of the way lies, found by
    /// counting in steps of a thousandth between neighbours.
    fn by_counting(samples: &[f64], percent: f64) -> f64 {
        let rank = |value: &f64| samples.iter().filter(|other| *other < value).count();
        let at = |wanted: usize| *samples.iter().find(|value| rank(value) == wanted).expect("distinct samples");
        let thousandths = (percent * 10.0).round() as usize * (samples.len() - 1);
        let (whole, part) = (thousandths / 1000, thousandths % 1000);
        if part == 0 { at(whole) } else { at(whole) + (at(whole + 1) - at(whole)) * part as f64 / 1000.0 }
    }

    #[test]
    fn percentiles_are_those_of_brute_force() {
        let mut random = Random::new(5, 0);
        for count in [1, 2, 3, 10, 99, 100, 101, 400] {
            let samples: Vec<f64> = (0..count).map(|_| random.unit() * 1e3).collect();
            let statistics = Statistics::of(samples.clone());
            for (percent, found) in [(50.0, statistics.p50), (90.0, statistics.p90), (99.0, statistics.p99)] {
                let expected = by_counting(&samples, percent);
                assert!((found - expected).abs() < 1e-9, "p{percent} of {count}: {found}, not {expected}");
            }
            assert_eq!(statistics.max, samples.iter().copied().fold(0.0, f64::max));
            assert_eq!(statistics.count, count);
        }
    }

    #[test]
    fn known_figures() {
        let statistics = Statistics::of(vec![4.0, 1.0, 3.0, 2.0]);
        // numpy.percentile([1, 2, 3, 4], [50, 90, 99])
        assert_eq!((statistics.mean, statistics.p50, statistics.max), (2.5, 2.5, 4.0));
        assert!((statistics.p90 - 3.7).abs() < 1e-12 && (statistics.p99 - 3.97).abs() < 1e-12);
        assert_eq!(Statistics::of(Vec::new()), Statistics::default());
    }
}
