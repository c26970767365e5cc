//! Everything that is shown of a server, worked out from its scrapes.

use super::exposition::{Exposition, Series, counted};
use super::format::harmless;
use super::quantile::{Buckets, Quantile};
use super::window::{Moment, Window};
use std::collections::BTreeMap;
use std::time::Duration;

/// The RPCs that generate; others would hide their outcomes.
const INFERENCE: [&str; 2] = ["Generate", "Complete"];
const LATENCIES: [(&str, &str); 5] = [
    ("first token", "llorch_time_to_first_token_seconds_bucket"),
    ("inter-token", "llorch_inter_token_latency_seconds_bucket"),
    ("end to end", "llorch_e2e_request_latency_seconds_bucket"),
    ("queue time", "llorch_queue_time_seconds_bucket"),
    ("step", "llorch_step_seconds_bucket"),
];
const TOTALS: [(&str, &str); 8] = [
    ("prompt tokens", "llorch_prompt_tokens_total"),
    ("generated tokens", "llorch_generation_tokens_total"),
    ("sequences finished", "llorch_requests_finished_total"),
    ("recomputed tokens", "llorch_recomputed_tokens_total"),
    ("wasted tokens", "llorch_wasted_tokens_total"),
    ("slow readers cut", "llorch_slow_consumers_total"),
    ("engine restarts", "llorch_engine_restarts_total"),
    ("steps", "llorch_step_seconds_count"),
];

/// What percentiles and event rates look back on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    /// The time that the window covers.
    Window(Duration),
    /// The life of the server; event rates are those of the window all the same.
    SinceStart,
}

/// What the server says of its readiness.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Health {
    Serving,
    Loading,
    Draining,
}

/// KV blocks by state, and tokens in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvPool {
    pub used: f64,
    pub cached: f64,
    pub free: f64,
    pub total: f64,
    pub block_tokens: f64,
}

/// A latency's percentiles, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    pub name: &'static str,
    pub buckets: Buckets,
    pub p50: Option<Quantile>,
    pub p90: Option<Quantile>,
    pub p99: Option<Quantile>,
}

/// Something that happens now and then.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: String,
    /// A kind of the event above it.
    pub detail: bool,
    /// `None` before there are two scrapes.
    pub per_second: Option<f64>,
    pub total: f64,
}

/// The figures of one moment.
#[derive(Clone, Debug)]
pub struct Figures {
    pub version: String,
    pub isa: String,
    pub threads: String,
    /// Name, architecture and file type; `None` until the model is loaded.
    pub model: Option<(String, String, String)>,
    pub uptime: Option<Duration>,
    pub health: Health,
    pub running: f64,
    pub waiting: f64,
    pub connections: f64,
    /// Sequences in the last step.
    pub batch: f64,
    /// Sequences in a step on average: between the last two scrapes, or since the start with [`Span::SinceStart`].
    pub mean_batch: Option<f64>,
    /// `0 ..= 1`.
    pub saturation: f64,
    pub kv: KvPool,
    /// Tokens per second between the last two scrapes.
    pub prompt_rate: Option<f64>,
    pub generation_rate: Option<f64>,
    pub span: Span,
    pub latencies: Vec<Latency>,
    pub events: Vec<Event>,
    /// Name and count since the start.
    pub totals: Vec<(&'static str, f64)>,
    pub moments: Vec<Moment>,
}

impl Figures {
    /// `None` before the first scrape. `now` is the time since 1970.
    pub fn of(window: &Window, since_start: bool, now: Duration) -> Option<Self> {
        let scraped = window.latest()?;
        let gauge = |name: &str| counted(scraped.value(name).unwrap_or(0.0));
        let info = |name: &str, labels: [&str; 3]| {
            let (series, _) = scraped.family(name).next()?;
            Some(labels.map(|label| harmless(series.label(label))))
        };
        let unknown = || ["?"; 3].map(str::to_owned);
        let [version, isa, threads] = info("llorch_build_info", ["version", "isa", "threads"]).unwrap_or_else(unknown);
        let start = scraped.value("process_start_time_seconds").map(counted);
        let kv = |state: &str| {
            let found = scraped.family("llorch_kv_blocks").find(|(series, _)| series.label("state") == state);
            found.map_or(0.0, |(_, value)| counted(value))
        };
        Some(Self {
            version,
            isa,
            threads,
            model: info("llorch_model_info", ["name", "architecture", "file_type"])
                .map(|[name, arch, t]| (name, arch, t)),
            uptime: start.and_then(|start| Some(now.saturating_sub(Duration::try_from_secs_f64(start).ok()?))),
            health: health(scraped),
            running: gauge("llorch_requests_running"),
            waiting: gauge("llorch_requests_waiting"),
            connections: gauge("llorch_connections"),
            batch: gauge("llorch_batch_sequences"),
            mean_batch: mean_batch(window, since_start),
            saturation: gauge("llorch_saturation_ratio"),
            kv: KvPool {
                used: kv("used"),
                cached: kv("cached"),
                free: kv("free"),
                total: gauge("llorch_kv_blocks_total"),
                block_tokens: gauge("llorch_kv_block_size_tokens"),
            },
            prompt_rate: window.last_rate("llorch_prompt_tokens_total"),
            generation_rate: window.last_rate("llorch_generation_tokens_total"),
            span: if since_start { Span::SinceStart } else { Span::Window(window.covered()) },
            latencies: LATENCIES.map(|(name, series)| latency(window, since_start, name, series)).into(),
            events: events(window, scraped),
            totals: TOTALS.map(|(name, series)| (name, total(scraped, series))).into(),
            moments: window.moments().iter().copied().collect(),
        })
    }
}

fn health(scraped: &Exposition) -> Health {
    let is = |name: &str, expected: f64| scraped.value(name) == Some(expected);
    if is("llorch_draining", 1.0) {
        Health::Draining
    } else if is("llorch_model_loaded", 0.0) {
        Health::Loading
    } else {
        Health::Serving
    }
}

/// The sum of all series called `name`.
fn total(scraped: &Exposition, name: &str) -> f64 {
    scraped.family(name).map(|(_, value)| counted(value)).sum()
}

fn mean_batch(window: &Window, since_start: bool) -> Option<f64> {
    let [sequences, steps] = ["llorch_step_sequences_sum", "llorch_step_sequences_count"].map(|name| {
        if since_start { window.latest().map(|scraped| total(scraped, name)) } else { window.last_added(name) }
    });
    let steps = steps.filter(|steps| *steps > 0.0)?;
    sequences.map(|sequences| sequences / steps)
}

fn latency(window: &Window, since_start: bool, name: &'static str, series: &str) -> Latency {
    let counts: Vec<(&Series, f64)> = if since_start {
        window.latest().into_iter().flat_map(|scraped| scraped.growing_family(series)).collect()
    } else {
        window.added(series).into_iter().collect()
    };
    let buckets = Buckets::from_cumulative(counts.iter().map(|(series, count)| (series.label("le"), *count)));
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| buckets.quantile(q));
    Latency { name, buckets, p50, p90, p99 }
}

fn events(window: &Window, scraped: &Exposition) -> Vec<Event> {
    let mut events = Vec::new();
    let outcomes = by_label(window, scraped, "llorch_requests_total", "code");
    let (good, mut bad): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|event| event.name == "OK");
    bad.sort_by(|a, b| b.total.total_cmp(&a.total));
    let none = Event { name: "OK".into(), detail: false, per_second: rate(window, 0.0), total: 0.0 };
    events.push(good.into_iter().next().unwrap_or(none));
    events.extend(bad);
    for (name, series, label) in [
        ("refused", "llorch_admission_rejections_total", "reason"),
        ("cancelled", "llorch_requests_cancelled_total", "stage"),
        ("preempted", "llorch_preemptions_total", ""),
    ] {
        let kinds = by_label(window, scraped, series, label);
        let per_second = rate(window, window.added(series).values().sum());
        events.push(Event { name: name.into(), detail: false, per_second, total: total(scraped, series) });
        let details = kinds.into_iter().filter(|event| !event.name.is_empty());
        events.extend(details.map(|event| Event { detail: true, ..event }));
    }
    events
}

/// One event for each value of `label`; of RPCs only those that generate.
fn by_label(window: &Window, scraped: &Exposition, name: &str, label: &str) -> Vec<Event> {
    let added = window.added(name);
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (series, value) in scraped.family(name) {
        let rpc = series.label("rpc");
        if rpc.is_empty() || INFERENCE.contains(&rpc) {
            let (recent, total) = sums.entry(series.label(label)).or_default();
            *recent += added.get(series).copied().unwrap_or(0.0);
            *total += counted(value);
        }
    }
    let event = |(name, (recent, total)): (&str, (f64, f64))| Event {
        name: harmless(name),
        detail: false,
        per_second: rate(window, recent),
        total,
    };
    sums.into_iter().map(event).collect()
}

fn rate(window: &Window, added: f64) -> Option<f64> {
    let covered = window.covered().as_secs_f64();
    (covered > 0.0).then(|| added / covered)
}
