//! Sends some requests again, each alone: batching must not have changed what they gave.

use super::random::Random;
use super::record::Record;
use super::target::Target;
use super::workload::{PlannedRequest, RESEND_STREAM};
use std::time::Instant;

/// What sending again showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transparency {
    /// Requests sent again.
    pub checked: usize,
    /// Positions in the plan of those that gave other tokens or another text.
    pub different: Vec<usize>,
    /// Those that did not complete when sent alone.
    pub failed: Vec<usize>,
}

impl Transparency {
    /// Something was sent again, and all of it gave the same.
    pub fn holds(&self) -> bool {
        self.checked > 0 && self.different.is_empty() && self.failed.is_empty()
    }
}

/// Sends `percent` of the completed requests again, at least one, one after the other, without deadlines.
pub async fn verify(
    target: &Target,
    plan: &[PlannedRequest],
    records: &[Record],
    percent: f64,
    seed: u64,
) -> Transparency {
    let mut result = Transparency::default();
    let start = Instant::now();
    for record in choose(records, percent, seed) {
        let Some(planned) = plan.get(record.index) else { continue };
        let alone = PlannedRequest { deadline_ms: None, cancel_after: None, ..planned.clone() };
        let again = target.send(start, start.elapsed().as_secs_f64(), record.index, &alone).await;
        result.checked += 1;
        if !again.completed() {
            result.failed.push(record.index);
        } else if again.token_ids != record.token_ids || again.text != record.text {
            result.different.push(record.index);
        }
    }
    result
}

fn choose(records: &[Record], percent: f64, seed: u64) -> Vec<&Record> {
    let mut random = Random::new(seed, RESEND_STREAM);
    let mut completed: Vec<(u64, &Record)> =
        records.iter().filter(|record| record.completed()).map(|record| (random.next_u64(), record)).collect();
    completed.sort_by_key(|(key, _)| *key);
    let count = (completed.len() as f64 * percent / 100.0).ceil() as usize;
    completed.into_iter().take(count).map(|(_, record)| record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_where_something_was_sent_again_and_all_of_it_was_the_same() {
        let shown = Transparency { checked: 3, ..Transparency::default() };
        assert!(shown.holds());
        assert!(!Transparency::default().holds(), "nothing completed");
        assert!(!Transparency { failed: vec![1], ..shown }.holds());
    }
}
