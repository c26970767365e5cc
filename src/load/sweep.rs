//! A series of runs under rising load, and where its knee is.

use super::arrivals::parse_rate;
use super::summary::{Setup, Summary};
use std::str::FromStr;

/// What rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Closed loop: requests at a time.
    Concurrency,
    /// Open loop: requests a second.
    Rate,
}

impl Axis {
    pub fn name(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Rate => "rate",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    /// Rising.
    Given(Vec<f64>),
    /// Twice the last, until the knee is well passed.
    Doubling { from: f64 },
}

/// The loads of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    pub axis: Axis,
    values: Values,
}

/// One run of a sweep.
pub struct Point {
    /// Concurrency or rate.
    pub value: f64,
    pub setup: Setup,
    pub summary: Summary,
}

/// Of a doubling sweep: no server on one machine has its knee beyond 2^16 times the first load.
const MAX_POINTS: usize = 17;
/// A doubling sweep makes so many after what seems to be the knee: one alone may have met a disturbance.
const POINTS_AFTER_KNEE: usize = 2;
/// Requests at a time beyond which a client has no sockets.
const MAX_CONCURRENCY: f64 = 65_536.0;

impl FromStr for Sweep {
    type Err = String;

    /// `concurrency=1,2,4`, `rate=0.5,1,2`; `concurrency` and `rate` double from 1, `rate=0.25..` from 0.25.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, values) = text.split_once('=').unwrap_or((text, "1.."));
        let axis = match name {
            "concurrency" => Axis::Concurrency,
            "rate" => Axis::Rate,
            _ => return Err(format!("`{name}` is neither `concurrency` nor `rate`")),
        };
        let values = match values.strip_suffix("..") {
            Some(from) => Values::Doubling { from: value(axis, from)? },
            None => Values::Given(values.split(',').map(|text| value(axis, text)).collect::<Result<_, _>>()?),
        };
        if let Values::Given(values) = &values
            && !values.is_sorted_by(|a, b| a < b)
        {
            return Err("the values must rise".into());
        }
        Ok(Self { axis, values })
    }
}

fn value(axis: Axis, text: &str) -> Result<f64, String> {
    match axis {
        Axis::Concurrency => {
            let value = text.trim().parse::<f64>().ok().filter(|value| value.fract() == 0.0);
            let value = value.filter(|value| (1.0..=MAX_CONCURRENCY).contains(value));
            value.ok_or_else(|| format!("`{text}` is not a number from 1 to {MAX_CONCURRENCY}"))
        }
        Axis::Rate => parse_rate(text),
    }
}

impl Sweep {
    /// The load of the run after `points`, if there is one more.
    pub fn next(&self, points: &[Point]) -> Option<f64> {
        match &self.values {
            Values::Given(values) => values.get(points.len()).copied(),
            Values::Doubling { from } => {
                let Some(last) = points.last() else { return Some(*from) };
                let value = last.value * 2.0;
                let over = points.len() == MAX_POINTS || last.summary.completed == 0;
                let too_many = self.axis == Axis::Concurrency && value > MAX_CONCURRENCY;
                let passed = knee_of(points).is_some_and(|knee| knee + POINTS_AFTER_KNEE < points.len());
                (!over && !too_many && !passed).then_some(value)
            }
        }
    }

    /// The highest load that is known before the sweep begins.
    pub fn highest(&self) -> Option<f64> {
        match &self.values {
            Values::Given(values) => values.last().copied(),
            Values::Doubling { .. } => None,
        }
    }
}

/// The knee of a sweep: the position of its point.
pub fn knee_of(points: &[Point]) -> Option<usize> {
    knee(&points.iter().map(|point| (point.value, &point.summary)).collect::<Vec<_>>())
}

/// What a doubling of the load must gain, and what a latency must lose to have risen.
const STEP: f64 = 1.1;

/// The first of `points` (load, result; by rising load) that no later point betters in output tokens a second by 10 %
/// for each doubling of the load between the two, and whose next point is worse: its p99 of the time to the first
/// token or of the gaps is more than 10 % higher, or more of its requests failed.
pub fn knee(points: &[(f64, &Summary)]) -> Option<usize> {
    (0..points.len().saturating_sub(1)).find(|&index| {
        let (load, here) = points[index];
        let better = |(later, summary): &(f64, &Summary)| {
            summary.output_throughput() >= here.output_throughput() * STEP.powf((later / load).log2())
        };
        let next = points[index + 1].1;
        let slower = next.ttft_ms.p99 > here.ttft_ms.p99 * STEP || next.itl_ms.p99 > here.itl_ms.p99 * STEP;
        !points[index + 1..].iter().any(better) && (slower || next.failed > here.failed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::run::Load;
    use crate::load::statistics::Statistics;
    use crate::load::summary::Slo;
    use crate::load::target::TargetInfo;
    use crate::load::workload::{Length, SamplingMix, Workload};

    /// A run of a second with this many tokens, p99 of the time to the first token and of the gaps.
    fn summary(output_tokens: u64, ttft: f64, itl: f64) -> Summary {
        Summary {
            duration_s: 1.0,
            completed: 1,
            output_tokens,
            ttft_ms: Statistics { p99: ttft, ..Statistics::default() },
            itl_ms: Statistics { p99: itl, ..Statistics::default() },
            ..Summary::default()
        }
    }

    fn knee_at(points: &[(f64, u64, f64, f64)]) -> Option<f64> {
        let made: Vec<(f64, Summary)> = points.iter().map(|p| (p.0, summary(p.1, p.2, p.3))).collect();
        let lent: Vec<(f64, &Summary)> = made.iter().map(|(load, summary)| (*load, summary)).collect();
        knee(&lent).map(|index| lent[index].0)
    }

    /// LOAD-14.
    #[test]
    fn the_knee_is_where_throughput_ends_and_latency_begins() {
        covers!("LOAD-14");
        // Throughput doubles to 4, gains 50 % at 8, and then nothing while the first token waits longer.
        let wait = [(1., 100, 10., 5.), (2., 200, 11., 5.), (4., 400, 12., 5.), (8., 600, 20., 7.)];
        let flat = [(16., 610, 80., 7.), (32., 612, 200., 7.)];
        assert_eq!(knee_at(&[&wait[..], &flat].concat()), Some(8.0));
        // The same where only the gaps grow.
        assert_eq!(knee_at(&[(4., 400, 10., 5.), (8., 420, 10., 9.)]), Some(4.0));
        // Throughput that falls, from the first point on.
        assert_eq!(knee_at(&[(1., 100, 10., 5.), (2., 90, 30., 5.), (4., 80, 60., 5.)]), Some(1.0));
        // A single dip is no knee.
        let dip = [(1., 100, 10., 5.), (2., 95, 30., 5.), (4., 390, 12., 5.), (8., 400, 60., 5.)];
        assert_eq!(knee_at(&dip), Some(4.0));
    }

    /// LOAD-14.
    #[test]
    fn a_curve_that_only_rises_has_no_knee() {
        covers!("LOAD-14");
        let rising: Vec<_> = (0..8).map(|i| (f64::from(1 << i), 100 << i, f64::from(10 + i), 5.0)).collect();
        assert_eq!(knee_at(&rising), None);
        // A gain of 20 % for each doubling is one.
        let slowly: Vec<_> = (0..8).map(|i| (f64::from(1 << i), 1000 * 12u64.pow(i) / 10u64.pow(i), 10., 5.)).collect();
        assert_eq!(knee_at(&slowly), None);
        // Flat, and nobody waits longer.
        assert_eq!(knee_at(&[(1., 100, 10., 5.), (2., 101, 10.5, 5.), (4., 102, 11., 5.)]), None);
        assert_eq!((knee_at(&[]), knee_at(&[(1., 100, 10., 5.)])), (None, None));
    }

    /// Close points gain little each: what counts is the gain for a doubling.
    #[test]
    fn close_points_are_not_taken_for_a_knee() {
        let close: Vec<_> = (10..30).map(|i| (f64::from(i), i as u64 * 100, f64::from(i).powi(4), 5.0)).collect();
        assert_eq!(knee_at(&close), None);
        let (mut here, mut next) = (summary(100, 10., 5.), summary(101, 10., 5.));
        assert_eq!(knee(&[(1.0, &here), (2.0, &next)]), None);
        next.failed = 3;
        assert_eq!(knee(&[(1.0, &here), (2.0, &next)]), Some(0));
        here.failed = 3;
        assert_eq!(knee(&[(1.0, &here), (2.0, &next)]), None);
    }

    #[test]
    fn sweeps_are_read() {
        let read = |text: &str| text.parse::<Sweep>();
        let given = |axis, values: &[f64]| Ok(Sweep { axis, values: Values::Given(values.to_vec()) });
        assert_eq!(read("concurrency=1,2,32"), given(Axis::Concurrency, &[1., 2., 32.]));
        assert_eq!(read("rate=0.5,3"), given(Axis::Rate, &[0.5, 3.]));
        let doubling = |axis, from| Ok(Sweep { axis, values: Values::Doubling { from } });
        assert_eq!(read("rate"), doubling(Axis::Rate, 1.0));
        assert_eq!(read("rate=0.25.."), doubling(Axis::Rate, 0.25));
        assert_eq!(read("concurrency=4.."), doubling(Axis::Concurrency, 4.0));
        for bad in ["", "x", "rate=", "rate=0", "rate=-1", "rate=NaN", "rate=2,1", "rate=1,1", "rate=1,,2", "rate=.."] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for bad in [
            "concurrency=1.5",
            "concurrency=0",
            "concurrency=70000",
            "concurrency=1,x",
            "rate=inf",
            "rate=1e-300",
            "rate=1e-300..",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    fn point(value: f64, summary: Summary) -> Point {
        let workload = Workload {
            requests: 1,
            prompt_tokens: Length { min: 1, max: 1 },
            gen_tokens: Length { min: 1, max: 1 },
            shared_prefix_tokens: 0,
            sampling: SamplingMix::Greedy,
            cancel_percent: 0.0,
            deadline_percent: 0.0,
            deadline_ms: None,
            seed: 0,
        };
        let load = Load::Closed { concurrency: value as usize };
        let (target, info, slo) = (String::new(), TargetInfo::default(), Slo::default());
        Point { value, setup: Setup { target, info, load, workload, slo }, summary }
    }

    /// The loads of a whole sweep of a server whose throughput ends at `limit` requests at a time.
    fn walk(sweep: &str, limit: f64) -> Vec<f64> {
        let sweep: Sweep = sweep.parse().expect("good");
        let mut points = Vec::new();
        while let Some(value) = sweep.next(&points) {
            let served = value.min(limit);
            points.push(point(value, summary((served * 100.0) as u64, value / served, 1.0)));
        }
        points.iter().map(|point| point.value).collect()
    }

    #[test]
    fn doubling_ends_two_points_after_the_knee() {
        assert_eq!(walk("concurrency", 8.0), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
        assert_eq!(walk("rate=0.5..", 1.0), [0.5, 1.0, 2.0, 4.0]);
        assert_eq!(walk("concurrency", f64::INFINITY).len(), MAX_POINTS);
        assert_eq!(walk("concurrency=32768..", f64::INFINITY), [32_768.0, 65_536.0]);
        assert_eq!(walk("rate=1,2,3,4", 1.0), [1.0, 2.0, 3.0, 4.0]);
        let dead = [point(1.0, Summary::default())];
        assert_eq!("rate".parse::<Sweep>().expect("good").next(&dead), None);
    }
}
