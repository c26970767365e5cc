//! Chaos on the real binary: thousands of clients that die anywhere, hold half-open connections, do not read, break
//! the protocol, pass their deadlines or ask for NaN, on a KV pool so small that sequences preempt each other. Every
//! request that was accepted ends once, nothing of it stays behind, and a control stream's text does not change by a
//! bit.
//!
//! `CHAOS_CLIENTS` is the number of clients, `CHAOS_SEED` what they are drawn from. A client's choices depend on the
//! seed and its number alone; what meets what is up to the machine.

mod journal;
mod kill;
mod raw;

use crate::support::client::{Output, Stream, endpoint, eventually, metric, named, request};
use crate::support::process::{POISON, Process, collect, poisoned_model_file};
use crate::support::random::Replay;
use journal::{Ended, Journal};
use kill::{Clients, NUM_SAMPLES, Seen, sample};
use llorch_cpud::server::proto::inference_client::InferenceClient;
use llorch_cpud::server::proto::{GenerateRequest, ResponseOptions, SamplingParams};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tonic::Code;

/// So that more than 10 000 of them go before their time.
const CLIENTS: u64 = 15_000;
/// Clients at the same time.
const WORKERS: usize = 32;
const SLOW_READERS: usize = 2;
/// 64 blocks of 4 tokens.
const FLAGS: [&str; 10] = [
    "--max-num-seqs",
    "16",
    "--max-num-batched-tokens",
    "24",
    "--max-queued",
    "60",
    "--block-size",
    "4",
    "--kv-cache",
    "64KiB",
];

/// The transport warns of clients that open and reset streams faster than it bears, as some here do.
const FILTER: &str = "info,h2=error,llorch_cpud::request=debug";

/// What a request that is forgotten would hold at the least, bytes: its tokens, with room for all it may become, its
/// block table and the channel of its events are more.
const LEAK_BYTES: u64 = 1024;
/// The process may grow, from half of the clients to all, by what the allocator keeps to itself and an eighth of what
/// would be held if each client left a request behind.
const ALLOCATOR_BYTES: u64 = 4 << 20;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What a process holds at rest.
#[derive(Debug, PartialEq)]
struct Holdings {
    descriptors: usize,
    io_tasks: f64,
    connections: f64,
    open_rpcs: f64,
    receiving_bytes: f64,
    running: f64,
    waiting: f64,
    used_blocks: f64,
}

impl Holdings {
    fn of(process: &Process) -> Self {
        let metrics = process.metrics();
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs").count();
        Self {
            descriptors,
            io_tasks: metric(&metrics, "llorch_io_tasks"),
            connections: metric(&metrics, "llorch_connections"),
            open_rpcs: metric(&metrics, "llorch_open_rpcs"),
            receiving_bytes: metric(&metrics, "llorch_receiving_bytes"),
            running: metric(&metrics, "llorch_requests_running"),
            waiting: metric(&metrics, "llorch_requests_waiting"),
            used_blocks: metric(&metrics, "llorch_kv_blocks{state=\"used\"}"),
        }
    }
}

fn resident_bytes(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn control(id: &str) -> GenerateRequest {
    let logit_bias = [(POISON, f32::NEG_INFINITY)].into();
    let sampling = SamplingParams { temperature: Some(0.9), seed: Some(77), logit_bias, ..Default::default() };
    GenerateRequest { sampling: Some(sampling), ..named(id, &[1, 60, 70, 80], 100) }
}

/// Repeats the control stream on a connection of its own until told to stop. The runs.
async fn controls(address: SocketAddr, name: &str, alone: Vec<Output>, stop: Arc<AtomicBool>) -> Vec<(String, Seen)> {
    let channel = endpoint(address).connect().await.expect("the server listens");
    let mut runs = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{name}-{}", runs.len());
        match InferenceClient::new(channel.clone()).generate(control(&id)).await {
            Ok(stream) => {
                let completion = Stream(stream.into_inner()).collect().await.expect("a good end");
                assert_eq!(completion.outputs(), alone, "control run {id}");
                runs.push((id, Seen::Well));
            }
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
    runs
}

/// A stream that nobody reads, of a request that says more than a client may leave unread.
async fn unread(address: SocketAddr, id: &str) -> tonic::Streaming<llorch_cpud::server::proto::GenerateResponse> {
    let narrow = endpoint(address).initial_stream_window_size(500).connect().await.expect("the server listens");
    let wanted = GenerateRequest {
        n: Some(16),
        sampling: control("").sampling,
        response: Some(ResponseOptions { token_ids: true, ..Default::default() }),
        ..request(&[1, 90], 240)
    };
    let wanted = GenerateRequest { request_id: id.into(), ..wanted };
    loop {
        match InferenceClient::new(narrow.clone()).generate(wanted.clone()).await {
            Ok(stream) => return stream.into_inner(),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
}

/// A server under test, and what was found out about it before.
struct Bench {
    process: Process,
    seed: u64,
    at_rest: Holdings,
    alone: Vec<Output>,
    samples: Vec<Vec<Output>>,
    /// What clients know of their requests.
    seen: Vec<(String, Seen)>,
    /// Slow readers so far.
    cut: f64,
}

impl Bench {
    /// Starts a server and runs what is to be known alone.
    async fn start(process: Process, seed: u64) -> Self {
        let channel = process.connect().await;
        let alone = collect(&channel, control("alone")).await.outputs();
        let mut seen = vec![("alone".to_owned(), Seen::Well)];
        let mut samples = Vec::new();
        for which in 0..NUM_SAMPLES {
            let id = format!("sample-{which}");
            samples.push(collect(&channel, sample(which, &id)).await.outputs());
            seen.push((id, Seen::Well));
        }
        drop(channel);
        eventually("the connection is gone", || Holdings::of(&process).connections == 0.0).await;
        // A task lives a little longer than what it counts.
        let readings: Vec<Holdings> = (0..20).map(|_| Holdings::of(&process)).collect();
        let least = |a: &Holdings, b: &Holdings| a.io_tasks.total_cmp(&b.io_tasks);
        let descriptors = readings.iter().map(|reading| reading.descriptors).min().expect("some readings");
        let at_rest = Holdings { descriptors, ..readings.into_iter().min_by(least).expect("some readings") };
        Self { process, seed, at_rest, alone, samples, seen, cut: 0.0 }
    }

    /// Lets the clients of these numbers come and go, and waits until nothing of them is left.
    async fn round(&mut self, name: &str, numbers: std::ops::Range<u64>) {
        let address = self.process.grpc;
        let mut slow = Vec::new();
        for reader in 0..SLOW_READERS {
            slow.push(unread(address, &format!("slow-{name}-{reader}")).await);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let name = format!("control-{name}");
        let (alone, told) = (self.alone.clone(), Arc::clone(&stop));
        let controls = tokio::spawn(async move { controls(address, &name, alone, told).await });
        let mut channels = Vec::new();
        for _ in 0..4 {
            channels.push(self.process.connect().await);
        }
        let admin = self.process.connect().await;
        let (samples, held) = (self.samples.clone(), Mutex::new(VecDeque::new()));
        let clients = Arc::new(Clients { seed: self.seed, address, channels, admin, samples, held });
        let next = Arc::new(AtomicU64::new(numbers.start));
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (clients, next, end) = (Arc::clone(&clients), Arc::clone(&next), numbers.end);
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= end {
                            return seen;
                        }
                        seen.extend(clients.kill(number).await);
                    }
                })
            })
            .collect();
        for worker in workers {
            self.seen.extend(worker.await.expect("no client found anything wrong"));
        }
        stop.store(true, Ordering::Relaxed);
        let runs = controls.await.expect("every control run was right");
        assert!(runs.len() >= 2, "{} control runs", runs.len());
        self.seen.extend(runs);
        let all_cut = self.cut + SLOW_READERS as f64;
        eventually("the slow readers are cut", || {
            metric(&self.process.metrics(), "llorch_slow_consumers_total") >= all_cut
        })
        .await;
        self.cut = all_cut;
        drop((clients, slow));
        eventually_at_rest(&self.process, &self.at_rest).await;
    }
}

/// Waits until the process holds what it held before.
async fn eventually_at_rest(process: &Process, at_rest: &Holdings) {
    let begin = Instant::now();
    loop {
        let now = Holdings::of(process);
        if now == *at_rest {
            return;
        }
        assert!(begin.elapsed().as_secs() < 60, "it holds {now:?}, before {at_rest:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The sum of a metric over its labels.
fn total(metrics: &str, name: &str) -> f64 {
    let of_line = |line: &str| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<f64>().ok();
    metrics.lines().filter_map(of_line).sum()
}

/// LAW-2: what the server's events, its metrics and its clients say of the same requests agrees.
fn check(journal: &Journal, metrics: &str, seen: &[(String, Seen)]) {
    assert!(journal.surprises.is_empty(), "{:#?}", &journal.surprises[..journal.surprises.len().min(20)]);
    assert_eq!(journal.num_open(), 0, "requests without an end");
    let cancelled = total(metrics, "llorch_requests_cancelled_total{");
    let in_queue = metric(metrics, "llorch_requests_cancelled_total{stage=\"queue\"}");
    assert_eq!(total(metrics, "llorch_requests_finished_total{"), journal.finished as f64);
    assert_eq!(cancelled, (journal.failed - journal.poisoned) as f64);
    assert_eq!(metric(metrics, "llorch_preemptions_total"), journal.preempted as f64);
    assert_eq!(metric(metrics, "llorch_queue_time_seconds_count"), journal.first_scheduled as f64);
    assert_eq!(journal.first_scheduled as f64 + in_queue, (journal.finished + journal.failed) as f64);
    for (id, seen) in seen {
        let ended = journal.ended.get(id);
        match seen {
            Seen::Nothing => {}
            Seen::Well => assert_eq!(ended, Some(&Ended::Well), "{id}"),
            Seen::Late => assert!(ended.is_some(), "{id}"),
            Seen::Failed => assert_eq!(ended, Some(&Ended::Failed), "{id}"),
            Seen::Refused => assert_eq!(ended, None, "{id}"),
        }
    }
    assert_eq!(metric(metrics, "llorch_engine_restarts_total"), 0.0);
}

/// What a run is meant to exercise. How often, is up to the machine; the figures are printed.
fn check_coverage(journal: &Journal, metrics: &str, seen: &[(String, Seen)]) {
    let gone = tally(seen, Seen::Nothing);
    assert!(gone > seen.len() / 2, "{gone} of {} clients went", seen.len());
    let cancelled = |stage: &str| metric(metrics, &format!("llorch_requests_cancelled_total{{stage=\"{stage}\"}}"));
    let rejected = metric(metrics, "llorch_admission_rejections_total{reason=\"queue_full\"}");
    // These depend on the machine's speed.
    let late = tally(seen, Seen::Late);
    eprintln!("chaos: {} cancelled in the prefill, {rejected} met a full queue, {late} late", cancelled("prefill"));
    let counts = [
        ("cancelled in the queue", cancelled("queue")),
        ("cancelled in the decode", cancelled("decode")),
        ("preempted", journal.preempted as f64),
        ("NaN", journal.poisoned as f64),
    ];
    for (what, count) in counts {
        eprintln!("chaos: {count} {what}");
        assert!(count > 0.0, "nothing was {what}");
    }
}

/// How often clients saw what.
fn tally(seen: &[(String, Seen)], kind: Seen) -> usize {
    seen.iter().filter(|(_, seen)| *seen == kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_die_anywhere_leave_nothing_behind() {
    covers!("LAW-1", "LAW-2", "LAW-3", "LAW-4", "LAW-5", "API-30", "API-41", "API-42");
    let (clients, seed) = (from_environment("CHAOS_CLIENTS", CLIENTS), from_environment("CHAOS_SEED", 1));
    let _replay = Replay { variable: "CHAOS_SEED", seed };
    let (_directory, path) = poisoned_model_file();
    let mut process = Process::start_with_env(&path, &FLAGS, &[("LLORCH_LOG", FILTER)]);
    let log = process.log_from_ready();
    let journal = std::thread::spawn(move || Journal::read(log));
    let mut bench = Bench::start(process, seed).await;
    let begin = Instant::now();
    bench.round("first", 0..clients / 2).await;
    let at_half = resident_bytes(&bench.process);
    bench.round("second", clients / 2..clients).await;
    let at_end = resident_bytes(&bench.process);
    let seconds = begin.elapsed().as_secs_f64();
    let metrics = bench.process.metrics();
    bench.process.signal("TERM");
    assert_eq!(bench.process.exit().0.code(), Some(0));
    let journal = journal.join().expect("a readable log");
    eprintln!(
        "chaos: seed {seed}, {clients} clients in {seconds:.1} s; {} requests accepted; clients saw {} end well, \
         {} fail, {} refused, {} not at all; {} preemptions; resident {} KiB at half, {} KiB at the end",
        journal.ended.len(),
        tally(&bench.seen, Seen::Well),
        tally(&bench.seen, Seen::Failed) + tally(&bench.seen, Seen::Late),
        tally(&bench.seen, Seen::Refused),
        tally(&bench.seen, Seen::Nothing),
        journal.preempted,
        at_half >> 10,
        at_end >> 10,
    );
    check(&journal, &metrics, &bench.seen);
    check_coverage(&journal, &metrics, &bench.seen);
    let bound = ALLOCATOR_BYTES + clients / 2 * LEAK_BYTES / 8;
    assert!(at_end.saturating_sub(at_half) < bound, "{at_half} bytes at half, {at_end} at the end, {bound} allowed");
}
