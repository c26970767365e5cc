//! What was added between scrapes, for as long as the window looks back, and the course of a few figures.
//!
//! Times are those since the start of the program that scrapes.

use super::exposition::{Exposition, Series, counted};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Most moments that are kept: enough for the widest terminal.
const MAX_MOMENTS: usize = 600;
/// Tells our metrics from those of others.
pub(super) const PREFIX: &str = "llorch_";
/// A process that started at another time is another process, whatever its counters say.
const PROCESS_START: &str = "process_start_time_seconds";

/// From one scrape to the next.
struct Step {
    /// When the later one was.
    at: Duration,
    took: Duration,
    /// What each counter grew by; those that did not are left out.
    added: BTreeMap<Series, f64>,
}

/// Figures of one scrape, for the charts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// Tokens per second since the scrape before.
    pub prompt_rate: f64,
    pub generation_rate: f64,
    /// Sequences that run.
    pub running: f64,
    /// Used share of the KV blocks, `0 ..= 1`.
    pub kv_usage: f64,
}

/// The scrapes of a server.
pub struct Window {
    span: Duration,
    latest: Option<(Duration, Exposition)>,
    steps: VecDeque<Step>,
    moments: VecDeque<Moment>,
}

impl Window {
    /// A window that looks back `span` from the latest scrape.
    pub fn new(span: Duration) -> Self {
        Self { span, latest: None, steps: VecDeque::new(), moments: VecDeque::new() }
    }

    /// Takes in what was scraped `at`, not before the last one. Series of others are left out: each scrape would keep
    /// them for as long as the window looks back.
    pub fn push(&mut self, at: Duration, mut scraped: Exposition) {
        scraped.retain(|name| name.starts_with(PREFIX) || name == PROCESS_START);
        if let Some((before, earlier)) = &self.latest {
            let took = at.saturating_sub(*before);
            self.steps.push_back(Step { at, took, added: added(earlier, &scraped) });
            while self.steps.front().is_some_and(|step| step.at + self.span <= at) {
                self.steps.pop_front();
            }
            if self.moments.len() == MAX_MOMENTS {
                self.moments.pop_front();
            }
            let rate = |name: &str| self.last_rate(name).unwrap_or(0.0);
            let gauge = |name: &str| counted(scraped.value(name).unwrap_or(0.0));
            let moment = Moment {
                prompt_rate: rate("llorch_prompt_tokens_total"),
                generation_rate: rate("llorch_generation_tokens_total"),
                running: gauge("llorch_requests_running"),
                kv_usage: gauge("llorch_kv_cache_usage_ratio"),
            };
            self.moments.push_back(moment);
        }
        self.latest = Some((at, scraped));
    }

    /// The last scrape.
    pub fn latest(&self) -> Option<&Exposition> {
        self.latest.as_ref().map(|(_, exposition)| exposition)
    }

    /// One for each scrape but the first, oldest first.
    pub fn moments(&self) -> &VecDeque<Moment> {
        &self.moments
    }

    /// The time that the window covers: less than its span at first.
    pub fn covered(&self) -> Duration {
        self.steps.iter().map(|step| step.took).sum()
    }

    /// What each series called `name` grew by within the window: those of the last scrape, and others that did grow.
    pub fn added(&self, name: &str) -> BTreeMap<&Series, f64> {
        let known = self.latest().into_iter().flat_map(|scraped| scraped.growing_family(name));
        let mut sums: BTreeMap<&Series, f64> = known.map(|(series, _)| (series, 0.0)).collect();
        for (series, value) in self.steps.iter().flat_map(|step| step.family(name)) {
            *sums.entry(series).or_insert(0.0) += value;
        }
        sums
    }

    /// The growth of all series called `name` between the last two scrapes. `None` before there are two.
    pub fn last_added(&self, name: &str) -> Option<f64> {
        self.steps.back().map(|step| step.family(name).map(|(_, value)| value).sum())
    }

    /// The same per second.
    pub fn last_rate(&self, name: &str) -> Option<f64> {
        let took = self.steps.back()?.took.as_secs_f64();
        self.last_added(name).filter(|_| took > 0.0).map(|added| added / took)
    }
}

impl Step {
    fn family<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a Series, f64)> + use<'a> {
        let first = Series { name: name.to_owned(), ..Series::default() };
        let name = name.to_owned();
        let from = self.added.range(first..).map(|(series, value)| (series, *value));
        from.take_while(move |(series, _)| series.name == name)
    }
}

/// What the counters grew by. One that fell or vanished, or another time of start, tells that the server was started
/// anew: then all count from 0. What was added between the earlier scrape and the end of that process is not known.
fn added(earlier: &Exposition, later: &Exposition) -> BTreeMap<Series, f64> {
    let fell = earlier.growing().any(|(series, before)| later.get(series).is_none_or(|now| counted(now) < before));
    let restarted = fell || earlier.value(PROCESS_START) != later.value(PROCESS_START);
    let base = |series: &Series| if restarted { 0.0 } else { earlier.get(series).map_or(0.0, counted) };
    let grown = later.growing().map(|(series, now)| (series.clone(), now - base(series)));
    grown.filter(|(_, value)| *value > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::super::quantile::{Buckets, Quantile};
    use super::*;
    use proptest::prelude::*;

    const TOKENS: &str = "llorch_generation_tokens_total";

    fn exposition(tokens: f64, ok: Option<f64>) -> Exposition {
        let ok = ok.map_or(String::new(), |ok| format!("llorch_r_total{{code=\"OK\"}} {ok}\n"));
        let types =
            "# TYPE llorch_generation_tokens_total counter\n# TYPE llorch_r_total counter\n# TYPE llorch_g gauge\n";
        Exposition::parse(&format!("{types}{TOKENS} {tokens}\n{ok}llorch_g {tokens}\n"))
    }

    fn second(at: u64) -> Duration {
        Duration::from_secs(at)
    }

    fn sum(window: &Window, name: &str) -> f64 {
        window.added(name).values().sum()
    }

    #[test]
    fn rates_are_of_the_last_interval_and_sums_of_the_window() {
        let mut window = Window::new(second(10));
        window.push(second(0), exposition(100.0, None));
        assert_eq!((window.last_rate(TOKENS), window.covered(), window.moments().len()), (None, second(0), 0));
        window.push(second(2), exposition(130.0, Some(1.0)));
        assert_eq!((window.last_rate(TOKENS), window.last_added(TOKENS)), (Some(15.0), Some(30.0)));
        // A series that appears with its first event counts from 0; a gauge is no counter.
        assert_eq!((sum(&window, "llorch_r_total"), sum(&window, "llorch_g")), (1.0, 0.0));
        window.push(second(5), exposition(160.0, Some(3.0)));
        assert_eq!((window.last_rate(TOKENS), sum(&window, TOKENS), window.covered()), (Some(10.0), 60.0, second(5)));
        window.push(second(12), exposition(160.0, Some(3.0)));
        // The interval that ended at 2 is out of the window.
        assert_eq!(
            (window.last_rate(TOKENS), sum(&window, TOKENS), sum(&window, "llorch_r_total")),
            (Some(0.0), 30.0, 2.0)
        );
        let rates: Vec<f64> = window.moments().iter().map(|moment| moment.generation_rate).collect();
        assert_eq!(rates, [15.0, 10.0, 0.0]);
    }

    /// What others count is neither kept nor taken for a restart.
    #[test]
    fn series_of_others_are_left_out() {
        let scraped = |tokens: u32, other: u32| {
            let types = format!("# TYPE {TOKENS} counter\n# TYPE o_total counter\n");
            Exposition::parse(&format!("{types}{TOKENS} {tokens}\no_total{{a=\"b\"}} {other}\n{PROCESS_START} 7\n"))
        };
        let mut window = Window::new(second(60));
        for (at, (tokens, other)) in [(10, 5), (20, 9), (30, 1)].into_iter().enumerate() {
            window.push(second(at as u64), scraped(tokens, other));
        }
        assert_eq!((sum(&window, TOKENS), window.added("o_total").len()), (20.0, 0));
        assert!(window.steps.iter().all(|step| step.added.len() == 1));
        assert_eq!(window.latest().map(|latest| latest.series().count()), Some(2));
    }

    #[test]
    fn after_a_restart_all_counts_from_zero() {
        let mut window = Window::new(second(60));
        window.push(second(0), exposition(1000.0, Some(4.0)));
        window.push(second(1), exposition(1010.0, Some(5.0)));
        // Started anew: one counter fell, the other has passed its old value.
        window.push(second(2), exposition(30.0, Some(6.0)));
        assert_eq!(
            (window.last_rate(TOKENS), sum(&window, TOKENS), sum(&window, "llorch_r_total")),
            (Some(30.0), 40.0, 7.0)
        );
        window.push(second(3), exposition(50.0, None));
        assert_eq!((sum(&window, TOKENS), sum(&window, "llorch_r_total")), (90.0, 7.0));
    }

    #[test]
    fn another_time_of_start_is_a_restart() {
        let scraped = |start: u32, tokens: u32| {
            let text = format!("# TYPE {TOKENS} counter\n{PROCESS_START} {start}\n{TOKENS} {tokens}\n");
            Exposition::parse(&text)
        };
        let mut window = Window::new(second(60));
        window.push(second(0), scraped(100, 5));
        window.push(second(1), scraped(107, 8));
        assert_eq!(window.last_added(TOKENS), Some(8.0));
    }

    #[test]
    fn odd_values_do_not_become_odd_figures() {
        let mut window = Window::new(second(60));
        for (at, value) in [f64::NAN, f64::INFINITY, -5.0, 3.0, f64::NAN, 4.0].into_iter().enumerate() {
            window.push(second(at as u64), exposition(value, None));
        }
        assert_eq!(sum(&window, TOKENS), 7.0);
        window.push(second(5), exposition(9.0, None));
        assert_eq!(window.last_rate(TOKENS), None, "no time passed");
    }

    const BOUNDS: [f64; 4] = [0.1, 0.5, 1.0, 5.0];

    fn histogram(samples: &[f64]) -> Exposition {
        let mut text = "# TYPE llorch_h histogram\n".to_owned();
        for bound in BOUNDS {
            let up_to = samples.iter().filter(|sample| **sample <= bound).count();
            text.push_str(&format!("llorch_h_bucket{{le=\"{bound}\"}} {up_to}\n"));
        }
        Exposition::parse(&format!("{text}llorch_h_bucket{{le=\"+Inf\"}} {}\n", samples.len()))
    }

    proptest! {
        /// Brute force from the raw samples of the last `span` seconds: the percentile is in the same bucket.
        #[test]
        fn percentiles_are_of_the_samples_in_the_window(
            per_second in prop::collection::vec(prop::collection::vec(0.001f64..8.0, 0..12), 1..40), span in 1usize..20,
        ) {
            let mut window = Window::new(second(span as u64));
            let mut all = Vec::new();
            window.push(second(0), histogram(&all));
            for (index, samples) in per_second.iter().enumerate() {
                all.extend(samples);
                window.push(second(index as u64 + 1), histogram(&all));
            }
            let mut recent = per_second[per_second.len().saturating_sub(span)..].concat();
            recent.sort_by(f64::total_cmp);
            let added = window.added("llorch_h_bucket");
            let buckets = Buckets::from_cumulative(added.iter().map(|(series, value)| (series.label("le"), *value)));
            prop_assert_eq!(buckets.total(), recent.len() as f64);
            for percent in [50, 90, 99] {
                let found = buckets.quantile(f64::from(percent) / 100.0);
                let Some(rank) = (percent as usize * recent.len()).div_ceil(100).checked_sub(1) else {
                    prop_assert_eq!(found, None);
                    continue;
                };
                let bucket = BOUNDS.iter().filter(|bound| **bound < recent[rank]).count();
                let ends = [&[0.0], &BOUNDS[..]].concat();
                match found {
                    Some(Quantile::At(value) | Quantile::InFirst(value)) => {
                        let inside = bucket < 4 && ends[bucket] <= value && value <= ends[bucket + 1] + 1e-9;
                        prop_assert!(inside, "{value}, exact {}", recent[rank]);
                    }
                    Some(Quantile::Above(bound)) => prop_assert!(bucket == 4 && bound == 5.0),
                    None => prop_assert!(false, "no percentile of {} samples", recent.len()),
                }
            }
        }
    }
}
