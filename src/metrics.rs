//! What `/metrics` shows. One [`Metrics`] a server: its own recorder, so that two servers in one process do not mix.
//!
//! Names and labels are the contract of `specs/06_GRPC_API.md`; bucket bounds are those of vLLM, so that dashboards
//! carry over.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::time::{SystemTime, UNIX_EPOCH};

const TTFT_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const PER_TOKEN_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const LATENCY_BUCKETS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const STEP_SIZE_BUCKETS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
/// The 1-2-5 series.
const LENGTH_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0,
    200000.0,
];

/// Prometheus' own name for it, whatever the program.
const PROCESS_START: &str = "process_start_time_seconds";

const GAUGES: [(&str, &str); 23] = [
    (PROCESS_START, "Start of the process, seconds since 1970"),
    ("llorch_requests_running", "Sequences that run"),
    ("llorch_requests_waiting", "Sequences that wait: for their first step, or for a place after it"),
    ("llorch_kv_blocks", "KV-cache blocks by state"),
    ("llorch_kv_blocks_total", "KV-cache blocks"),
    ("llorch_kv_block_size_tokens", "Tokens in a KV-cache block"),
    ("llorch_kv_cache_usage_ratio", "Used share of the KV-cache blocks, 0 to 1"),
    ("llorch_batch_sequences", "Sequences in the last step"),
    (
        "llorch_saturation_ratio",
        "How near a new request is to having to wait, 0 to 1: places, KV blocks, or the estimated wait in seconds",
    ),
    ("llorch_waiting_tokens", "Prompt tokens of the sequences that wait for their first step"),
    ("llorch_tenants_waiting", "Tenants of which sequences wait, one for all who have no name"),
    ("llorch_estimated_wait_seconds", "Until the first step of a request that came now"),
    ("llorch_kv_blocks_claimed", "KV blocks that the requests in flight may come to hold"),
    ("llorch_model_loaded", "1 once the model is loaded"),
    ("llorch_draining", "1 while the server drains"),
    ("llorch_build_info", "1; the labels describe the build"),
    ("llorch_model_info", "1; the labels describe the model"),
    ("llorch_connections", "Open gRPC connections"),
    ("llorch_open_rpcs", "RPCs of Inference that are not answered to the end"),
    ("llorch_receiving_bytes", "Held by request messages on their way in"),
    ("llorch_answer_bytes", "Held by responses on their way out, of those over 64 KiB"),
    ("llorch_io_tasks", "Asynchronous tasks that live: connections, streams, and some that always do"),
    ("llorch_engine_stalled", "1 while no step completes though there is work"),
];

const COUNTERS: [(&str, &str); 13] = [
    ("llorch_requests_total", "RPCs that ended, by name and status code"),
    ("llorch_requests_finished_total", "Sequences that finished, by reason"),
    ("llorch_requests_cancelled_total", "Sequences ended from outside, by the stage they were in"),
    ("llorch_admission_rejections_total", "Requests refused at the edge, by reason"),
    ("llorch_prompt_tokens_total", "Prompt tokens, by source; those computed again after a preemption count once"),
    ("llorch_generation_tokens_total", "Tokens generated"),
    ("llorch_preemptions_total", "Sequences that lost their KV blocks to others"),
    ("llorch_recomputed_tokens_total", "Tokens computed again: after a preemption, or by a fork that found no place"),
    ("llorch_prefix_cache_queried_tokens_total", "Tokens looked up in the prefix cache by sequences that begin to run"),
    ("llorch_prefix_cache_hit_tokens_total", "Those of them that it held"),
    ("llorch_wasted_tokens_total", "Tokens computed for nothing, by cause"),
    ("llorch_engine_restarts_total", "Restarts of the engine after a fault"),
    ("llorch_slow_consumers_total", "Streams cut because the client did not read"),
];

/// Counters with labels that are known beforehand, and the values. They are there from the start, at 0: a rate sees no
/// first event of a series that begins with it.
const KNOWN_SERIES: [(&str, &str, &[&str]); 3] = [
    ("llorch_requests_finished_total", "reason", &["stop", "length", "context_limit"]),
    ("llorch_requests_cancelled_total", "stage", &["queue", "prefill", "decode"]),
    (
        "llorch_admission_rejections_total",
        "reason",
        &[
            "queue_full",
            "quota",
            "deadline_unmeetable",
            "kv_capacity",
            "context_exceeded",
            "duplicate_id",
            "draining",
            "engine_restart",
            "receiving_full",
            "answers_full",
            "encoders_busy",
        ],
    ),
];

const HISTOGRAMS: [(&str, &str, &[f64]); 11] = [
    ("llorch_time_to_first_token_seconds", "From submission to a sequence's first token", TTFT_BUCKETS),
    ("llorch_inter_token_latency_seconds", "Between two tokens of a sequence", PER_TOKEN_BUCKETS),
    ("llorch_time_per_output_token_seconds", "Mean of a finished sequence, first token excluded", PER_TOKEN_BUCKETS),
    ("llorch_e2e_request_latency_seconds", "From submission to a sequence's end", LATENCY_BUCKETS),
    ("llorch_queue_time_seconds", "From submission to a sequence's first step", LATENCY_BUCKETS),
    ("llorch_step_seconds", "Duration of a step", TTFT_BUCKETS),
    ("llorch_step_tokens", "Tokens computed in a step", STEP_SIZE_BUCKETS),
    ("llorch_step_sequences", "Sequences in a step", STEP_SIZE_BUCKETS),
    ("llorch_cancel_latency_seconds", "From a cancellation to the release of the blocks", TTFT_BUCKETS),
    ("llorch_prompt_tokens", "Prompt length of finished sequences", LENGTH_BUCKETS),
    ("llorch_generation_tokens", "Generated length of finished sequences", LENGTH_BUCKETS),
];

/// The server's metrics. Handles of the hot path are made once; recording through them takes no lock.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    pub engine: EngineMetrics,
    pub slow_consumers: Counter,
    pub model_loaded: Gauge,
    pub connections: Gauge,
    pub open_rpcs: Gauge,
    pub receiving_bytes: Gauge,
    pub answer_bytes: Gauge,
    pub io_tasks: Gauge,
    pub engine_stalled: Gauge,
}

/// What the actor records.
pub struct EngineMetrics {
    pub running: Gauge,
    pub waiting: Gauge,
    pub kv_used: Gauge,
    pub kv_cached: Gauge,
    pub kv_free: Gauge,
    pub kv_total: Gauge,
    pub kv_block_size: Gauge,
    pub kv_usage: Gauge,
    pub batch_sequences: Gauge,
    pub saturation: Gauge,
    pub waiting_tokens: Gauge,
    pub tenants_waiting: Gauge,
    pub estimated_wait: Gauge,
    pub kv_claimed: Gauge,
    pub draining: Gauge,
    pub prompt_computed: Counter,
    pub prompt_cached: Counter,
    pub prefix_queried: Counter,
    pub prefix_hit: Counter,
    pub generation: Counter,
    pub preemptions: Counter,
    pub recomputed: Counter,
    pub wasted_cancel: Counter,
    pub wasted_preempt: Counter,
    pub restarts: Counter,
    pub ttft: Histogram,
    pub inter_token: Histogram,
    pub per_output_token: Histogram,
    pub e2e: Histogram,
    pub queue_time: Histogram,
    pub step_seconds: Histogram,
    pub step_tokens: Histogram,
    pub step_sequences: Histogram,
    pub cancel_latency: Histogram,
    pub prompt_tokens: Histogram,
    pub generation_tokens: Histogram,
}

impl Metrics {
    /// Describes every metric and makes the handles.
    pub fn new() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for (name, _, buckets) in HISTOGRAMS {
            builder = builder.set_buckets_for_metric(Matcher::Full(name.into()), buckets)?;
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (engine, slow_consumers) = with_local_recorder(&recorder, || {
            describe();
            begin_known_series();
            gauge!(PROCESS_START).set(since_1970.as_secs_f64());
            (EngineMetrics::new(), counter!("llorch_slow_consumers_total"))
        });
        let own = |name: &'static str| with_local_recorder(&recorder, || gauge!(name));
        Ok(Self {
            engine,
            slow_consumers,
            model_loaded: own("llorch_model_loaded"),
            connections: own("llorch_connections"),
            open_rpcs: own("llorch_open_rpcs"),
            receiving_bytes: own("llorch_receiving_bytes"),
            answer_bytes: own("llorch_answer_bytes"),
            io_tasks: own("llorch_io_tasks"),
            engine_stalled: own("llorch_engine_stalled"),
            recorder,
            handle,
        })
    }

    /// The Prometheus text.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Moves recorded histogram values into their buckets. Without it they pile up between two scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// An RPC ended with `code`, the canonical name of a gRPC status.
    pub fn count_rpc(&self, rpc: &'static str, code: &'static str) {
        with_local_recorder(&self.recorder, || {
            counter!("llorch_requests_total", "rpc" => rpc, "code" => code).increment(1);
        });
    }

    /// A request was refused before it entered the queue.
    pub fn count_rejection(&self, reason: &'static str) {
        with_local_recorder(&self.recorder, || {
            counter!("llorch_admission_rejections_total", "reason" => reason).increment(1);
        });
    }

    /// A sequence finished.
    pub fn count_finished(&self, reason: &'static str) {
        with_local_recorder(&self.recorder, || {
            counter!("llorch_requests_finished_total", "reason" => reason).increment(1);
        });
    }

    /// A sequence was ended from outside.
    pub fn count_cancelled(&self, stage: &'static str) {
        with_local_recorder(&self.recorder, || {
            counter!("llorch_requests_cancelled_total", "stage" => stage).increment(1);
        });
    }

    /// Sets `llorch_build_info`.
    pub fn set_build_info(&self, isa: &str, threads: usize) {
        with_local_recorder(&self.recorder, || {
            gauge!("llorch_build_info", "version" => env!("CARGO_PKG_VERSION"), "isa" => isa.to_owned(),
                "threads" => threads.to_string())
            .set(1.0);
        });
    }

    /// Sets `llorch_model_info` and `llorch_model_loaded`.
    pub fn set_model_info(&self, name: &str, architecture: &str, file_type: &str) {
        with_local_recorder(&self.recorder, || {
            gauge!("llorch_model_info", "name" => name.to_owned(), "architecture" => architecture.to_owned(),
                "file_type" => file_type.to_owned())
            .set(1.0);
        });
        self.model_loaded.set(1.0);
    }
}

fn describe() {
    for (name, help) in GAUGES {
        metrics::describe_gauge!(name, help);
    }
    for (name, help) in COUNTERS {
        metrics::describe_counter!(name, help);
    }
    for (name, help, _) in HISTOGRAMS {
        metrics::describe_histogram!(name, help);
    }
}

fn begin_known_series() {
    for (name, label, values) in KNOWN_SERIES {
        for value in values {
            counter!(name, label => *value).absolute(0);
        }
    }
}

impl EngineMetrics {
    /// Handles of the recorder in scope.
    fn new() -> Self {
        Self {
            running: gauge!("llorch_requests_running"),
            waiting: gauge!("llorch_requests_waiting"),
            kv_used: gauge!("llorch_kv_blocks", "state" => "used"),
            kv_cached: gauge!("llorch_kv_blocks", "state" => "cached"),
            kv_free: gauge!("llorch_kv_blocks", "state" => "free"),
            kv_total: gauge!("llorch_kv_blocks_total"),
            kv_block_size: gauge!("llorch_kv_block_size_tokens"),
            kv_usage: gauge!("llorch_kv_cache_usage_ratio"),
            batch_sequences: gauge!("llorch_batch_sequences"),
            saturation: gauge!("llorch_saturation_ratio"),
            waiting_tokens: gauge!("llorch_waiting_tokens"),
            tenants_waiting: gauge!("llorch_tenants_waiting"),
            estimated_wait: gauge!("llorch_estimated_wait_seconds"),
            kv_claimed: gauge!("llorch_kv_blocks_claimed"),
            draining: gauge!("llorch_draining"),
            prompt_computed: counter!("llorch_prompt_tokens_total", "source" => "computed"),
            prompt_cached: counter!("llorch_prompt_tokens_total", "source" => "cached"),
            prefix_queried: counter!("llorch_prefix_cache_queried_tokens_total"),
            prefix_hit: counter!("llorch_prefix_cache_hit_tokens_total"),
            generation: counter!("llorch_generation_tokens_total"),
            preemptions: counter!("llorch_preemptions_total"),
            recomputed: counter!("llorch_recomputed_tokens_total"),
            wasted_cancel: counter!("llorch_wasted_tokens_total", "cause" => "cancel"),
            wasted_preempt: counter!("llorch_wasted_tokens_total", "cause" => "preempt"),
            restarts: counter!("llorch_engine_restarts_total"),
            ttft: histogram!("llorch_time_to_first_token_seconds"),
            inter_token: histogram!("llorch_inter_token_latency_seconds"),
            per_output_token: histogram!("llorch_time_per_output_token_seconds"),
            e2e: histogram!("llorch_e2e_request_latency_seconds"),
            queue_time: histogram!("llorch_queue_time_seconds"),
            step_seconds: histogram!("llorch_step_seconds"),
            step_tokens: histogram!("llorch_step_tokens"),
            step_sequences: histogram!("llorch_step_sequences"),
            cancel_latency: histogram!("llorch_cancel_latency_seconds"),
            prompt_tokens: histogram!("llorch_prompt_tokens"),
            generation_tokens: histogram!("llorch_generation_tokens"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_48_names_are_those_of_the_table() {
        covers!("API-48");
        let gauges = GAUGES.iter().map(|(name, _)| *name).filter(|name| *name != PROCESS_START);
        let of_type = |kind: &str| {
            let mut names: Vec<&str> = match kind {
                "gauge" => gauges.clone().collect(),
                "counter" => COUNTERS.iter().map(|(name, _)| *name).collect(),
                "histogram" => HISTOGRAMS.iter().map(|(name, _, _)| *name).collect(),
                other => panic!("no type {other}"),
            };
            names.sort_unstable();
            names
        };
        let table = crate::spec::table("API-48");
        assert_eq!(table.rows.len(), 3);
        for row in table.rows() {
            assert_eq!(of_type(row.text("type")), row.list::<String>("names"));
        }
    }
}
