//! When the requests of an open loop are to be sent.

use super::random::Random;

/// The distribution of the gaps between two requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// All gaps equal.
    Constant,
    /// Gaps from a gamma distribution of shape `burstiness`: their standard deviation is `1/sqrt(burstiness)` of their
    /// mean. 1 is a Poisson process, below 1 comes in bursts, above 1 is more regular.
    Gamma { burstiness: f64 },
}

/// Seconds from the start after which nothing is sent: a year. What a lower rate would send later is due then, in a run
/// that nobody waits for; far beyond, no clock could be set to the time.
const MAX_TIME_S: f64 = 365.0 * 86_400.0;
/// A second request comes within a year on average.
const MIN_RATE: f64 = 1.0 / MAX_TIME_S;

/// Reads a rate in requests a second; one too low to see a second request is an error.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= MIN_RATE => Ok(rate),
        _ => Err(format!("`{text}` is not a number of requests a second, at least one a year ({MIN_RATE:.1e})")),
    }
}

/// Seconds from the start at which each of `count` requests is to be sent, at `rate` requests a second on average. The
/// first is sent at 0, the last after a year at most.
pub fn send_times(arrivals: Arrivals, rate: f64, count: usize, random: &mut Random) -> Vec<f64> {
    let mut now = 0.0;
    let time = |index| match arrivals {
        Arrivals::Constant => index as f64 / rate,
        Arrivals::Gamma { burstiness } => {
            let at = now;
            now += random.gamma_mean_one(burstiness) / rate;
            at
        }
    };
    // `min` takes the other number where one is none.
    (0..count).map(time).map(|at| at.min(MAX_TIME_S)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 20_001;

    /// Mean and variance of the gaps, each as a multiple of what a rate of 50 per second gives without bursts.
    fn moments(arrivals: Arrivals, seed: u64) -> (f64, f64) {
        let times = send_times(arrivals, 50.0, COUNT, &mut Random::new(seed, 0));
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) * 50.0).collect();
        assert!(times[0] == 0.0 && gaps.iter().all(|gap| *gap >= 0.0));
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        (mean, gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64)
    }

    #[test]
    fn gaps_have_the_mean_and_the_variance_of_their_distribution() {
        for seed in 0..8 {
            for burstiness in [0.25, 0.5, 1.0, 2.0, 9.0] {
                let (mean, variance) = moments(Arrivals::Gamma { burstiness }, seed);
                // Six standard errors: of the mean 1/sqrt(b n), of the variance sqrt(2 + 6/b)/(b sqrt(n)).
                let root = ((COUNT - 1) as f64).sqrt();
                let mean_error = 6.0 / (burstiness.sqrt() * root);
                let variance_error = 6.0 * (2.0 + 6.0 / burstiness).sqrt() / (burstiness * root);
                assert!((mean - 1.0).abs() < mean_error, "seed {seed} b {burstiness}: mean {mean}");
                let distance = (variance - 1.0 / burstiness).abs();
                assert!(distance < variance_error, "seed {seed} b {burstiness}: variance {variance}");
            }
        }
    }

    /// In a Poisson process the number of requests in a window has its mean as variance, and the share of gaps above
    /// their mean is 1/e: what the moments of the gaps alone do not tell.
    #[test]
    fn a_burstiness_of_one_is_a_poisson_process() {
        let times = send_times(Arrivals::Gamma { burstiness: 1.0 }, 50.0, COUNT, &mut Random::new(3, 0));
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > 0.02).count() as f64 / (COUNT - 1) as f64;
        assert!((long - (-1.0f64).exp()).abs() < 0.02, "{long}");
        let windows = 390;
        let mut counts = vec![0.0f64; windows];
        for time in &times {
            if let Some(count) = counts.get_mut(*time as usize) {
                *count += 1.0;
            }
        }
        let mean = counts.iter().sum::<f64>() / windows as f64;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / windows as f64;
        assert!((variance / mean - 1.0).abs() < 0.4, "mean {mean}, variance {variance}");
    }

    /// Whatever rate and shape a flag can name, every time is one that a clock can be set to.
    #[test]
    fn times_are_such_as_a_clock_can_be_set_to() {
        let shapes = [1e-300, 1e-3, 1.0, 1e300, f64::MAX].map(|burstiness| Arrivals::Gamma { burstiness });
        for arrivals in shapes.into_iter().chain([Arrivals::Constant]) {
            for rate in [f64::MIN_POSITIVE, 1e-300, 1e-9, 1.0, 1e300, f64::MAX] {
                let times = send_times(arrivals, rate, 20, &mut Random::new(5, 0));
                let good = |at: &f64| (0.0..=MAX_TIME_S).contains(at);
                assert!(times[0] == 0.0 && times.iter().all(good), "{arrivals:?} {rate}: {times:?}");
                assert!(times.is_sorted(), "{arrivals:?} {rate}: {times:?}");
            }
        }
    }

    #[test]
    fn rates_are_read() {
        assert_eq!((parse_rate("0.25"), parse_rate(" 1e-7")), (Ok(0.25), Ok(1e-7)));
        for bad in ["", "x", "0", "-1", "NaN", "inf", "1e-300", "3e-8"] {
            assert!(parse_rate(bad).is_err_and(|reason| reason.contains(bad) && reason.lines().count() == 1), "{bad}");
        }
    }

    #[test]
    fn constant_gaps_are_equal_and_a_seed_repeats() {
        let times = send_times(Arrivals::Constant, 4.0, 5, &mut Random::new(1, 0));
        assert_eq!(times, [0.0, 0.25, 0.5, 0.75, 1.0]);
        let draw = |seed| send_times(Arrivals::Gamma { burstiness: 2.0 }, 4.0, 50, &mut Random::new(seed, 0));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
