//! `/metrics`, `/healthz` and `/readyz`: the names of `specs/06_GRPC_API.md`, and that they move.

use crate::support::client::{Gate, Options, TestServer, metric, named, request, tokenizer};
use llorch_cpud::server::serve_metrics;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PROMPT: [u32; 5] = [1, 70, 71, 72, 73];

async fn listen(server: &TestServer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve_metrics(listener, Arc::clone(&server.state)));
    address
}

/// `(status line, body)` of one request.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.lines().next().expect("a status line").to_owned(), body.to_owned())
}

#[tokio::test]
async fn the_http_port_tells_life_and_readiness() {
    let server = TestServer::start_loading(Options::default()).await;
    let address = listen(&server).await;
    assert_eq!(ask(address, "GET", "/healthz").await.0, "HTTP/1.1 200 OK");
    assert_eq!(ask(address, "GET", "/readyz").await.0, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(metric(&ask(address, "GET", "/metrics").await.1, "llorch_model_loaded"), 0.0);
    server.state.set_model(server.engine.clone(), tokenizer(), Default::default());
    assert_eq!(ask(address, "GET", "/readyz").await.0, "HTTP/1.1 200 OK");
    assert_eq!(metric(&ask(address, "GET", "/metrics").await.1, "llorch_model_loaded"), 1.0);
    server.engine.drain();
    assert_eq!(metric(&ask(address, "GET", "/metrics").await.1, "llorch_draining"), 1.0);
    assert_eq!(ask(address, "GET", "/../etc/passwd").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(ask(address, "POST", "/metrics").await.0, "HTTP/1.1 405 Method Not Allowed");
}

/// Every name of the contract that exists now has a help text and a value.
#[tokio::test]
async fn every_name_is_there() {
    let server = TestServer::start(Options::default()).await;
    server.collect(request(&PROMPT, 5)).await;
    server.at_rest().await;
    let text = ask(listen(&server).await, "GET", "/metrics").await.1;
    let gauges = "requests_running requests_waiting kv_blocks kv_blocks_total kv_block_size_tokens \
        kv_cache_usage_ratio \
        batch_sequences saturation_ratio model_loaded draining build_info model_info waiting_tokens tenants_waiting \
        estimated_wait_seconds kv_blocks_claimed";
    let counters = "requests_total requests_finished_total requests_cancelled_total admission_rejections_total \
        prompt_tokens_total generation_tokens_total \
        preemptions_total recomputed_tokens_total prefix_cache_queried_tokens_total prefix_cache_hit_tokens_total \
        wasted_tokens_total engine_restarts_total slow_consumers_total";
    let histograms = "time_to_first_token_seconds inter_token_latency_seconds time_per_output_token_seconds \
        e2e_request_latency_seconds queue_time_seconds step_seconds step_tokens step_sequences prompt_tokens \
        generation_tokens";
    for (kind, names) in [("gauge", gauges), ("counter", counters), ("histogram", histograms)] {
        for name in names.split_whitespace() {
            assert!(text.contains(&format!("# HELP llorch_{name} ")), "{name} has no help\n{text}");
            assert!(text.contains(&format!("# TYPE llorch_{name} {kind}\n")), "{name} is no {kind}\n{text}");
        }
    }
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let age = since_1970.as_secs_f64() - metric(&text, "process_start_time_seconds");
    assert!((0.0..600.0).contains(&age), "{age}");
    let info = "llorch_model_info{name=\"fake\",architecture=\"fake\",file_type=\"F32\"}";
    assert_eq!(metric(&text, info), 1.0);
    let build = format!("llorch_build_info{{version=\"{}\",isa=\"scalar\",threads=\"1\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metric(&text, &build), 1.0);
    assert!(text.contains("llorch_time_to_first_token_seconds_bucket{le=\"0.001\"}"), "vLLM's buckets\n{text}");
}

/// Nobody has asked for anything yet.
#[tokio::test]
async fn series_with_known_labels_begin_at_0() {
    let server = TestServer::start(Options::default()).await;
    let text = ask(listen(&server).await, "GET", "/metrics").await.1;
    for series in [
        "llorch_requests_finished_total{reason=\"stop\"}",
        "llorch_requests_cancelled_total{stage=\"queue\"}",
        "llorch_requests_cancelled_total{stage=\"prefill\"}",
        "llorch_requests_cancelled_total{stage=\"decode\"}",
        "llorch_admission_rejections_total{reason=\"queue_full\"}",
        "llorch_admission_rejections_total{reason=\"deadline_unmeetable\"}",
        "llorch_wasted_tokens_total{cause=\"cancel\"}",
    ] {
        assert_eq!(metric(&text, series), 0.0, "{series}");
    }
}

#[tokio::test]
async fn counts_follow_what_happened() {
    let server = TestServer::start(Options::default()).await;
    for _ in 0..3 {
        server.collect(request(&PROMPT, 7)).await;
    }
    let mut two = request(&PROMPT, 4);
    two.n = Some(2);
    server.inference().complete(two).await.expect("a completion");
    server.refusal(named("not good", &PROMPT, 1)).await;
    server.at_rest().await;
    let expected = [
        ("llorch_requests_total{rpc=\"Generate\",code=\"OK\"}", 3.0),
        ("llorch_requests_total{rpc=\"Complete\",code=\"OK\"}", 1.0),
        ("llorch_requests_total{rpc=\"Generate\",code=\"INVALID_ARGUMENT\"}", 1.0),
        ("llorch_requests_finished_total{reason=\"length\"}", 5.0),
        // The first block of the prompt is computed once.
        ("llorch_prompt_tokens_total{source=\"computed\"}", 5.0 + 3.0),
        ("llorch_prompt_tokens_total{source=\"cached\"}", 3.0 * 4.0),
        ("llorch_prefix_cache_queried_tokens_total", 4.0 * 5.0),
        ("llorch_prefix_cache_hit_tokens_total", 3.0 * 4.0),
        ("llorch_generation_tokens_total", 29.0),
        ("llorch_time_to_first_token_seconds_count", 5.0),
        ("llorch_inter_token_latency_seconds_count", 24.0),
        ("llorch_time_per_output_token_seconds_count", 5.0),
        ("llorch_e2e_request_latency_seconds_count", 5.0),
        ("llorch_queue_time_seconds_count", 5.0),
        ("llorch_prompt_tokens_sum", 25.0),
        ("llorch_generation_tokens_sum", 29.0),
        // A step for each token; the siblings share theirs.
        ("llorch_step_tokens_count", 25.0),
        ("llorch_step_tokens_sum", 8.0 + 24.0),
        // The siblings are one in their first step.
        ("llorch_step_sequences_sum", 28.0),
    ];
    let text = server.metrics.render();
    for (name, value) in expected {
        assert_eq!(metric(&text, name), value, "{name}\n{text}");
    }
}

#[tokio::test]
async fn gauges_show_the_moment() {
    let gate = Gate::default();
    let mut options = Options { gate: Some(gate.clone()), ..Default::default() };
    options.scheduler.max_num_seqs = 2;
    let server = TestServer::start(options).await;
    let address = listen(&server).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(server.generate(request(&PROMPT, 30)).await.expect("accepted"));
        gate.entered(1).await;
    }
    // The first to decode is measured alone.
    gate.allow(3);
    gate.entered(4).await;
    let text = ask(address, "GET", "/metrics").await.1;
    // Two sequences with 6 or 8 tokens in blocks of 4, the first of them shared; the third waits.
    let expected = [
        ("llorch_requests_running", 2.0),
        ("llorch_requests_waiting", 1.0),
        ("llorch_kv_blocks{state=\"used\"}", 3.0),
        ("llorch_kv_blocks{state=\"cached\"}", 0.0),
        ("llorch_kv_blocks{state=\"free\"}", 2045.0),
        ("llorch_kv_blocks_total", 2048.0),
        ("llorch_kv_block_size_tokens", 4.0),
        ("llorch_kv_cache_usage_ratio", 3.0 / 2048.0),
        ("llorch_batch_sequences", 2.0),
        ("llorch_saturation_ratio", 1.0),
        ("llorch_waiting_tokens", 5.0),
        ("llorch_tenants_waiting", 1.0),
        // Each may come to 35 tokens.
        ("llorch_kv_blocks_claimed", 3.0 * 9.0),
    ];
    assert!(metric(&text, "llorch_estimated_wait_seconds") > 0.0, "a request would have to wait for a place\n{text}");
    for (name, value) in expected {
        assert_eq!(metric(&text, name), value, "{name}\n{text}");
    }
    gate.open();
    for stream in streams {
        stream.collect().await.expect("a good end");
    }
    server.at_rest().await;
    let text = ask(address, "GET", "/metrics").await.1;
    let at_rest = "requests_running requests_waiting kv_blocks{state=\"used\"} waiting_tokens tenants_waiting \
        kv_blocks_claimed estimated_wait_seconds saturation_ratio";
    for name in at_rest.split_whitespace().map(|name| format!("llorch_{name}")) {
        let name = name.as_str();
        assert_eq!(metric(&text, name), 0.0, "{name}\n{text}");
    }
    let blocks = ["cached", "free"].map(|state| metric(&text, &format!("llorch_kv_blocks{{state=\"{state}\"}}")));
    assert!(blocks[0] > 0.0 && blocks[0] + blocks[1] == 2048.0, "{blocks:?}");
}
