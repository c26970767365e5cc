//! Whether a run's figures mean what they seem to: was the client on time, and did the server keep up?

use super::record::Record;
use super::run::Load;

/// A request sent later than this after its time is late. The timer alone costs up to a millisecond.
pub const LATE_S: f64 = 0.010;
/// Share of late requests from which the client is said not to have kept up.
const LATE_SHARE: f64 = 0.01;

/// What is to be known before the figures are believed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub late_sends: usize,
    /// The longest that a request was sent after its time, in seconds.
    pub worst_delay_s: f64,
    /// The client itself was too slow: the run does not measure the server.
    pub client_too_slow: bool,
    /// Completed requests with more or fewer tokens than asked for: the figures are of another load than planned.
    pub other_lengths: usize,
    /// Open loop: requests came faster than they were served.
    pub saturated: bool,
    /// Open loop: whether the server kept up cannot be told.
    pub too_short: bool,
    /// Open loop: the requests in flight, on average, in the second and in the last quarter of the time of arrivals.
    pub backlog: Option<(f64, f64)>,
    /// Open loop: the seconds in which requests came and those until the last ended, where the latter are many more.
    pub drain: Option<(f64, f64)>,
}

impl Verdict {
    pub fn of(load: Load, records: &[Record]) -> Self {
        let delays = || records.iter().map(|record| record.sent - record.intended);
        let late_sends = delays().filter(|delay| *delay > LATE_S).count();
        let mut verdict = Self {
            late_sends,
            worst_delay_s: delays().fold(0.0, f64::max),
            client_too_slow: late_sends as f64 > LATE_SHARE * records.len() as f64,
            other_lengths: records.iter().filter(|record| has_other_length(record)).count(),
            ..Self::default()
        };
        if let Load::Open { .. } = load
            && let Some((early, late, arrivals)) = backlog(records)
        {
            verdict.backlog = Some((early, late));
            verdict.saturated = late - early > (0.1 * arrivals).max(2.0 * early.sqrt() + 2.0);
        }
        if let Load::Open { .. } = load
            && let Some((arrivals_s, drain_s)) = long_drain(records)
        {
            verdict.saturated = true;
            verdict.drain = Some((arrivals_s, drain_s));
        }
        let judged = verdict.saturated || verdict.backlog.is_some();
        verdict.too_short = matches!(load, Load::Open { .. }) && !judged && records.iter().any(Record::completed);
        verdict
    }

    /// A line for each thing to be known; none for a clean run.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.client_too_slow {
            let (count, worst) = (self.late_sends, self.worst_delay_s * 1e3);
            lines.push(format!(
                "THE CLIENT COULD NOT KEEP UP: {count} requests were sent late, the worst by {worst:.0} ms. \
                 These figures measure the client too; use a lower load or a machine of its own."
            ));
        }
        if self.other_lengths > 0 {
            let count = self.other_lengths;
            lines.push(format!(
                "OTHER LENGTHS: {count} completed requests gave more or fewer tokens than asked for. \
                 These figures are of another load than the one above."
            ));
        }
        if let Some((arrivals_s, drain_s)) = self.drain {
            lines.push(format!(
                "SATURATED: all requests came within {arrivals_s:.1} s, and it took {drain_s:.1} s more to serve them. \
                 Latencies grow with the length of the run and mean nothing."
            ));
        } else if let (true, Some((early, late))) = (self.saturated, self.backlog) {
            lines.push(format!(
                "SATURATED: requests came faster than they were served; {early:.1} were in flight in the second \
                 quarter of the run and {late:.1} in the last. Latencies grow with the \
                 length of the run and mean nothing."
            ));
        }
        if self.too_short {
            lines.push(
                "TOO SHORT: fewer than 8 requests, or they came for less than four times as long as the fastest took. \
                 Whether the server kept up cannot be told; send more requests."
                    .into(),
            );
        }
        lines
    }
}

fn has_other_length(record: &Record) -> bool {
    record.completed() && record.output_tokens() != u64::from(record.gen_tokens)
}

/// Requests in flight on average in the second and in the last quarter of the time in which requests came, and how many
/// came between the middles of the two. None where a run is shorter than the requests it has: then its backlog only
/// grows, however fast the server is.
fn backlog(records: &[Record]) -> Option<(f64, f64, f64)> {
    let end = records.iter().map(|record| record.intended).fold(0.0, f64::max);
    let fastest = records.iter().filter(|record| record.completed()).map(Record::e2e).fold(f64::INFINITY, f64::min);
    if records.len() < 8 || end < 4.0 * fastest {
        return None;
    }
    let early = mean_in_flight(records, 0.25 * end, 0.5 * end);
    let late = mean_in_flight(records, 0.75 * end, end);
    let middle = 0.375 * end..0.875 * end;
    let arrivals = records.iter().filter(|record| middle.contains(&record.intended)).count();
    Some((early, late, arrivals as f64))
}

/// The seconds in which requests came, and those from then to the last end where these are more than the former and
/// more than four times the fastest request: a server that keeps up is done soon after the last request.
fn long_drain(records: &[Record]) -> Option<(f64, f64)> {
    let arrivals_s = records.iter().map(|record| record.intended).fold(0.0, f64::max);
    let completed = || records.iter().filter(|record| record.completed());
    let fastest = completed().map(Record::e2e).fold(f64::INFINITY, f64::min);
    let drain_s = completed().map(|record| record.ended).fold(0.0, f64::max) - arrivals_s;
    (drain_s > arrivals_s && drain_s > 4.0 * fastest).then_some((arrivals_s, drain_s))
}

/// Requests in flight from `from` to `to`, averaged over that time.
pub fn mean_in_flight(records: &[Record], from: f64, to: f64) -> f64 {
    let inside = |record: &Record| (record.ended.min(to) - record.intended.max(from)).max(0.0);
    records.iter().map(inside).sum::<f64>() / (to - from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::arrivals::{Arrivals, send_times};
    use crate::load::random::Random;
    use crate::load::record::Outcome;

    /// A server with one place that takes `service_s` for each request, in order.
    fn one_by_one(rate: f64, service_s: f64, seed: u64) -> Vec<Record> {
        let times = send_times(Arrivals::Gamma { burstiness: 1.0 }, rate, 400, &mut Random::new(seed, 0));
        let mut free = 0.0f64;
        let record = |(index, intended): (usize, f64)| {
            free = free.max(intended) + service_s;
            Record {
                index,
                intended,
                sent: intended,
                chunks: Vec::new(),
                ended: free,
                prompt_tokens: 1,
                gen_tokens: 0,
                usage_tokens: None,
                outcome: Outcome::Completed,
                message: String::new(),
                token_ids: Vec::new(),
                text: String::new(),
            }
        };
        times.into_iter().enumerate().map(record).collect()
    }

    const OPEN: Load = Load::Open { rate: 10.0, arrivals: Arrivals::Constant };

    #[test]
    fn a_growing_backlog_is_told_from_a_busy_server() {
        for seed in 0..20 {
            for (service_s, saturated) in [(0.02, false), (0.06, false), (0.14, true), (0.5, true)] {
                let verdict = Verdict::of(OPEN, &one_by_one(10.0, service_s, seed));
                assert_eq!(verdict.saturated, saturated, "seed {seed}, {service_s} s: {verdict:?}");
                assert_eq!(verdict.warnings().len(), usize::from(saturated));
            }
        }
        let closed = Verdict::of(Load::Closed { concurrency: 4 }, &one_by_one(10.0, 0.5, 1));
        assert!(!closed.saturated && closed.backlog.is_none());
    }

    #[test]
    fn a_run_shorter_than_its_requests_has_no_backlog_to_judge() {
        let few = Verdict::of(OPEN, &one_by_one(10.0, 0.05, 1)[..6]);
        assert!(few.backlog.is_none() && few.too_short && few.warnings()[0].starts_with("TOO SHORT"));
        let slow: Vec<Record> =
            one_by_one(10.0, 0.05, 1).into_iter().map(|r| Record { ended: r.intended + 30.0, ..r }).collect();
        assert!(Verdict::of(OPEN, &slow).backlog.is_none() && Verdict::of(OPEN, &slow).too_short);
        let closed = Verdict::of(Load::Closed { concurrency: 4 }, &slow);
        assert!(!closed.too_short && !Verdict::of(OPEN, &one_by_one(10.0, 0.05, 1)).too_short);
        let failed = |r: &Record| Record { outcome: Outcome::Failed("HTTP 503".into()), ..r.clone() };
        assert!(!Verdict::of(OPEN, &slow.iter().map(failed).collect::<Vec<_>>()).too_short);
    }

    /// Forty requests at once to a server that takes a second for each, and to one that takes all together.
    #[test]
    fn a_burst_that_takes_long_to_serve_is_saturation() {
        let burst = one_by_one(1e4, 1.0, 1).into_iter().take(40).collect::<Vec<_>>();
        let verdict = Verdict::of(OPEN, &burst);
        assert!(verdict.saturated && verdict.warnings()[0].contains("SATURATED"), "{verdict:?}");
        let together: Vec<Record> = burst.into_iter().map(|r| Record { ended: r.intended + 1.0, ..r }).collect();
        assert_eq!(Verdict::of(OPEN, &together), Verdict { too_short: true, ..Verdict::default() });
    }

    #[test]
    fn late_sends_are_counted() {
        let mut records = one_by_one(10.0, 0.01, 1);
        assert!(!Verdict::of(OPEN, &records).client_too_slow);
        for record in records.iter_mut().take(5) {
            record.sent += 0.2;
        }
        let verdict = Verdict::of(OPEN, &records);
        assert!(verdict.client_too_slow && verdict.late_sends == 5);
        assert!((verdict.worst_delay_s - 0.2).abs() < 1e-9);
        assert!(verdict.warnings()[0].contains("COULD NOT KEEP UP"));
    }
}
