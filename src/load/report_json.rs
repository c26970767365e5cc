//! The figures as JSON, with the keys of `vllm bench serve`.

use super::run::Load;
use super::statistics::Statistics;
use super::summary::{Setup, Summary};
use serde_json::{Map, Value, json};

/// One object. Keys beyond those of vLLM begin with `llorch_`.
pub fn report(setup: &Setup, summary: &Summary) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    put("backend", json!(setup.info.backend));
    put("base_url", json!(setup.target));
    put("model_id", json!(setup.info.model));
    put("num_prompts", json!(setup.workload.requests));
    let (rate, concurrency) = match setup.load {
        Load::Open { rate, .. } => (json!(rate), Value::Null),
        Load::Closed { concurrency } => (json!("inf"), json!(concurrency)),
    };
    put("request_rate", rate);
    put("max_concurrency", concurrency);
    put("seed", json!(setup.workload.seed));
    put("duration", json!(summary.duration_s));
    put("completed", json!(summary.completed));
    put("failed", json!(summary.failed));
    put("total_input_tokens", json!(summary.input_tokens));
    put("total_output_tokens", json!(summary.output_tokens));
    put("request_throughput", json!(summary.request_throughput()));
    put("request_goodput", json!(summary.goodput()));
    put("output_throughput", json!(summary.output_throughput()));
    put("total_token_throughput", json!(summary.total_token_throughput()));
    put("max_concurrent_requests", json!(summary.peak_in_flight));
    let measures = [
        ("ttft_ms", &summary.ttft_ms),
        ("tpot_ms", &summary.tpot_ms),
        ("itl_ms", &summary.itl_ms),
        ("e2el_ms", &summary.e2el_ms),
    ];
    for (name, statistics) in measures {
        for (prefix, value) in figures(statistics) {
            put(&format!("{prefix}_{name}"), json!(value));
        }
    }
    let worst: Map<String, Value> =
        figures(&summary.worst_gap_ms).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    put("llorch_worst_gap_ms", Value::Object(worst));
    let refused: Map<String, Value> =
        figures(&summary.refused_ms).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    put("llorch_refused_ms", Value::Object(refused));
    put("llorch_cancelled", json!(summary.cancelled));
    put("llorch_lost_tokens", json!(summary.lost_tokens));
    put("llorch_miscounted", json!(summary.miscounted));
    put("llorch_other_lengths", json!(summary.verdict.other_lengths));
    put("llorch_errors", json!(summary.errors));
    put("llorch_error_messages", json!(summary.messages));
    put("llorch_late_sends", json!(summary.verdict.late_sends));
    put("llorch_client_too_slow", json!(summary.verdict.client_too_slow));
    put("llorch_saturated", json!(summary.verdict.saturated));
    put("llorch_too_short", json!(summary.verdict.too_short));
    put("llorch_warnings", json!(summary.verdict.warnings()));
    if let Some(transparency) = &summary.transparency {
        let (checked, holds) = (transparency.checked, transparency.holds());
        let (different, failed) = (&transparency.different, &transparency.failed);
        put(
            "llorch_transparency",
            json!({"checked": checked, "holds": holds, "different": different, "failed": failed}),
        );
    }
    Value::Object(object)
}

fn figures(statistics: &Statistics) -> [(&'static str, f64); 5] {
    [
        ("mean", statistics.mean),
        ("median", statistics.p50),
        ("p90", statistics.p90),
        ("p99", statistics.p99),
        ("max", statistics.max),
    ]
}
