//! The figures of a run.

use super::record::{Outcome, Record};
use super::run::Load;
use super::statistics::Statistics;
use super::target::TargetInfo;
use super::transparency::Transparency;
use super::verdict::Verdict;
use super::workload::Workload;
use std::collections::BTreeMap;

/// Latencies that a request must keep to count as good.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slo {
    pub ttft_ms: Option<f64>,
    /// For every gap of the request.
    pub itl_ms: Option<f64>,
}

impl Slo {
    fn is_kept(&self, record: &Record) -> bool {
        let is_within = |limit: f64, value: f64| value * 1e3 <= limit;
        // A request without a token has kept no time to the first; one without gaps has none that was too long.
        let ttft = self.ttft_ms.is_none_or(|limit| record.ttft().is_some_and(|value| is_within(limit, value)));
        let gaps = self.itl_ms.is_none_or(|limit| record.worst_gap().is_none_or(|value| is_within(limit, value)));
        record.completed() && ttft && gaps
    }
}

/// A run as it was asked for.
#[derive(Clone, Debug)]
pub struct Setup {
    pub target: String,
    pub info: TargetInfo,
    pub load: Load,
    pub workload: Workload,
    pub slo: Slo,
}

/// What a run came to. Latencies are of completed requests, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// From the start to the last end, in seconds.
    pub duration_s: f64,
    pub completed: usize,
    pub cancelled: usize,
    pub failed: usize,
    /// By status and reason.
    pub errors: BTreeMap<String, usize>,
    /// What was said of the first failure of each kind.
    pub messages: BTreeMap<String, String>,
    /// Of completed requests.
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Generated for requests that did not complete.
    pub lost_tokens: u64,
    /// Completed requests whose messages showed other counts than the server's own at the end.
    pub miscounted: usize,
    pub ttft_ms: Statistics,
    pub tpot_ms: Statistics,
    pub itl_ms: Statistics,
    /// The worst gap of each request.
    pub worst_gap_ms: Statistics,
    pub e2el_ms: Statistics,
    /// From sending to the end of those that were refused for want of room: RESOURCE_EXHAUSTED before any token.
    pub refused_ms: Statistics,
    /// Completed requests that kept the objectives; None where there are none.
    pub good: Option<usize>,
    pub peak_in_flight: usize,
    pub verdict: Verdict,
    pub transparency: Option<Transparency>,
}

impl Summary {
    pub fn of(setup: &Setup, records: &[Record], transparency: Option<Transparency>) -> Self {
        let completed: Vec<&Record> = records.iter().filter(|record| record.completed()).collect();
        let (mut errors, mut messages) = (BTreeMap::new(), BTreeMap::new());
        for record in records {
            if let Outcome::Failed(error) = &record.outcome {
                *errors.entry(error.clone()).or_insert(0) += 1;
                messages.entry(error.clone()).or_insert_with(|| record.message.clone());
            }
        }
        let output_tokens = completed.iter().map(|record| record.output_tokens()).sum();
        let ms = |samples: Vec<f64>| Statistics::of(samples).scaled(1e3);
        let has_slo = setup.slo != Slo::default();
        Self {
            duration_s: records.iter().map(|record| record.ended).fold(0.0, f64::max),
            completed: completed.len(),
            cancelled: records.iter().filter(|record| record.outcome == Outcome::Cancelled).count(),
            failed: errors.values().sum(),
            errors,
            messages,
            input_tokens: completed.iter().map(|record| u64::from(record.prompt_tokens)).sum(),
            output_tokens,
            lost_tokens: records.iter().map(Record::output_tokens).sum::<u64>() - output_tokens,
            miscounted: completed.iter().filter(|record| record.output_tokens() != record.shown_tokens()).count(),
            ttft_ms: ms(completed.iter().filter_map(|record| record.ttft()).collect()),
            tpot_ms: ms(completed.iter().filter_map(|record| record.tpot()).collect()),
            itl_ms: ms(completed.iter().flat_map(|record| record.gaps()).collect()),
            worst_gap_ms: ms(completed.iter().filter_map(|record| record.worst_gap()).collect()),
            e2el_ms: ms(completed.iter().map(|record| record.e2e()).collect()),
            refused_ms: ms(records.iter().filter(|record| record.refused()).map(|r| r.ended - r.sent).collect()),
            good: has_slo.then(|| records.iter().filter(|record| setup.slo.is_kept(record)).count()),
            peak_in_flight: peak_in_flight(records),
            verdict: Verdict::of(setup.load, records),
            transparency,
        }
    }

    /// `amount` a second; 0 for a run without duration.
    pub fn per_second(&self, amount: f64) -> f64 {
        if self.duration_s > 0.0 { amount / self.duration_s } else { 0.0 }
    }

    pub fn request_throughput(&self) -> f64 {
        self.per_second(self.completed as f64)
    }

    pub fn output_throughput(&self) -> f64 {
        self.per_second(self.output_tokens as f64)
    }

    pub fn total_token_throughput(&self) -> f64 {
        self.per_second((self.input_tokens + self.output_tokens) as f64)
    }

    /// Each kind of failure with its count and what was said of the first.
    pub fn failures(&self) -> impl Iterator<Item = (&str, usize, &str)> {
        let message = |error: &String| self.messages.get(error).map_or("", String::as_str);
        self.errors.iter().map(move |(error, count)| (error.as_str(), *count, message(error)))
    }

    pub fn goodput(&self) -> Option<f64> {
        self.good.map(|good| self.per_second(good as f64))
    }
}

/// The most requests between sending and end at one time.
fn peak_in_flight(records: &[Record]) -> usize {
    let mut changes: Vec<(f64, i64)> = records.iter().flat_map(|r| [(r.sent, 1), (r.ended, -1)]).collect();
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut now = 0i64;
    changes
        .iter()
        .map(|(_, change)| {
            now += change;
            now
        })
        .max()
        .unwrap_or(0)
        .max(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::Chunk;

    /// LOAD-6.
    #[test]
    fn a_request_without_tokens_keeps_no_time_to_the_first() {
        covers!("LOAD-6");
        let chunk = |at| Chunk { at, tokens: 1 };
        let record = |chunks| Record {
            index: 0,
            intended: 1.0,
            sent: 1.0,
            chunks,
            ended: 3.0,
            prompt_tokens: 4,
            gen_tokens: 2,
            usage_tokens: None,
            outcome: Outcome::Completed,
            message: String::new(),
            token_ids: Vec::new(),
            text: String::new(),
        };
        let ttft = Slo { ttft_ms: Some(1000.0), itl_ms: None };
        let itl = Slo { ttft_ms: None, itl_ms: Some(400.0) };
        // Chunks, whether the time to the first token is kept, whether the gaps are.
        let cases = [
            (vec![], false, true),
            (vec![chunk(1.5)], true, true),
            (vec![chunk(2.5)], false, true),
            (vec![chunk(1.5), chunk(1.75)], true, true),
            (vec![chunk(1.5), chunk(2.5)], true, false),
        ];
        for (chunks, kept_ttft, kept_itl) in cases {
            let record = record(chunks);
            assert_eq!((ttft.is_kept(&record), itl.is_kept(&record)), (kept_ttft, kept_itl), "{record:?}");
            let lost = Record { outcome: Outcome::Cancelled, ..record };
            assert!(!ttft.is_kept(&lost) && !itl.is_kept(&lost));
        }
    }
}
