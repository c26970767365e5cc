//! Drives a plan: in a closed loop, where a request waits for another's end, or in an open one, where it does not.

use super::arrivals::{Arrivals, send_times};
use super::random::Random;
use super::record::Record;
use super::target::Target;
use super::workload::{ARRIVAL_STREAM, PlannedRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many at any time; the next is due when one ends.
    Closed { concurrency: usize },
    /// So many a second on average, whatever became of those before; nothing is sent after a year.
    Open { rate: f64, arrivals: Arrivals },
}

/// Called with each record as its request ends.
pub type Progress = Arc<dyn Fn(&Record) + Send + Sync>;

/// Sends all of `plan` and waits for the ends; the records come by index. `seed` draws the send times.
pub async fn run(
    target: &Arc<Target>,
    plan: &Arc<Vec<PlannedRequest>>,
    load: Load,
    seed: u64,
    progress: &Progress,
) -> Vec<Record> {
    let mut records = match load {
        Load::Closed { concurrency } => closed(target, plan, concurrency, progress).await,
        Load::Open { rate, arrivals } => {
            let times = send_times(arrivals, rate, plan.len(), &mut Random::new(seed, ARRIVAL_STREAM));
            open(target, plan, &times, progress).await
        }
    };
    records.sort_by_key(|record| record.index);
    records
}

async fn closed(
    target: &Arc<Target>,
    plan: &Arc<Vec<PlannedRequest>>,
    concurrency: usize,
    progress: &Progress,
) -> Vec<Record> {
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(plan.len()) {
        let (target, plan) = (Arc::clone(target), Arc::clone(plan));
        let (next, progress) = (Arc::clone(&next), Arc::clone(progress));
        workers.spawn(async move {
            let mut records = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(planned) = plan.get(index) else { return records };
                let due = start.elapsed().as_secs_f64();
                let record = target.send(start, due, index, planned).await;
                progress(&record);
                records.push(record);
            }
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

async fn open(
    target: &Arc<Target>,
    plan: &Arc<Vec<PlannedRequest>>,
    times: &[f64],
    progress: &Progress,
) -> Vec<Record> {
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for (index, &due) in times.iter().enumerate() {
        let at = start + Duration::from_secs_f64(due);
        tokio::time::sleep_until(at.into()).await;
        let (target, plan, progress) = (Arc::clone(target), Arc::clone(plan), Arc::clone(progress));
        requests.spawn(async move {
            let record = target.send(start, due, index, &plan[index]).await;
            progress(&record);
            record
        });
    }
    requests.join_all().await
}
