//! The load tester (`specs/load-tester.md`): against the server of the tests, and as a command.

use crate::support;
use crate::support::client::{Gate, Options, TestServer, eventually, greedy_ids};
use crate::support::process::{Process, command, model_file};
use llorch_cpud::load::arrivals::Arrivals;
use llorch_cpud::load::record::{Outcome, Record};
use llorch_cpud::load::run::{Load, Progress, run};
use llorch_cpud::load::summary::{Setup, Slo, Summary};
use llorch_cpud::load::sweep::{Axis, Point};
use llorch_cpud::load::target::Target;
use llorch_cpud::load::transparency::verify;
use llorch_cpud::load::workload::{Length, PlannedRequest, SamplingMix, Workload};
use llorch_cpud::load::{report_html, report_json, report_text, sweep_html, sweep_report};
use serde_json::json;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn workload(requests: usize) -> Workload {
    support::load::workload(requests, Length { min: 3, max: 12 })
}

struct Tester {
    client: Arc<Target>,
    plan: Arc<Vec<PlannedRequest>>,
    setup: Setup,
}

impl Tester {
    async fn new(server: &TestServer, load: Load, workload: Workload) -> Self {
        let target = format!("http://{}", server.address);
        let client = Arc::new(Target::connect(&target, 2, false, "").await.expect("the server listens"));
        let info = client.info().await.expect("a model");
        let plan = Arc::new(workload.plan(info.vocab_size.expect("told")));
        Self { client, plan, setup: Setup { target, info, load, workload, slo: Slo::default() } }
    }

    async fn run(&self) -> Vec<Record> {
        let silent: Progress = Arc::new(|_| {});
        run(&self.client, &self.plan, self.setup.load, 7, &silent).await
    }
}

const FAST: Load = Load::Open { rate: 2000.0, arrivals: Arrivals::Gamma { burstiness: 1.0 } };

/// LOAD-1: what is counted is what the model gave, in both loops.
#[tokio::test]
async fn every_request_and_token_is_counted() {
    covers!("LOAD-1");
    let server = TestServer::start(Options::default()).await;
    for load in [Load::Closed { concurrency: 5 }, FAST] {
        let tester = Tester::new(&server, load, workload(40)).await;
        let records = tester.run().await;
        assert_eq!(records.iter().map(|record| record.index).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
        for (record, planned) in records.iter().zip(tester.plan.iter()) {
            assert_eq!(record.outcome, Outcome::Completed);
            assert_eq!(record.token_ids, greedy_ids(&planned.prompt, planned.gen_tokens as usize));
            assert_eq!(record.output_tokens(), u64::from(planned.gen_tokens));
            let mut times = vec![record.intended, record.sent];
            times.extend(record.chunks.iter().map(|chunk| chunk.at));
            times.push(record.ended);
            assert!(times.is_sorted(), "{times:?}");
        }
        let summary = Summary::of(&tester.setup, &records, None);
        let generated: u64 = tester.plan.iter().map(|planned| u64::from(planned.gen_tokens)).sum();
        let sent: u64 = tester.plan.iter().map(|planned| planned.prompt.len() as u64).sum();
        assert_eq!((summary.completed, summary.failed, summary.cancelled), (40, 0, 0));
        assert_eq!((summary.input_tokens, summary.output_tokens, summary.lost_tokens), (sent, generated, 0));
        assert_eq!((summary.ttft_ms.count, summary.e2el_ms.count), (40, 40));
        server.at_rest().await;
    }
}

/// LOAD-2: while the server stalls, an open loop goes on sending, and each request that was due in the stall counts its
/// wait from then. A closed loop shows the stall once for each place.
#[tokio::test]
async fn a_stalled_server_is_not_left_out() {
    covers!("LOAD-2");
    let gate = Gate::default();
    let server = TestServer::start(Options { gate: Some(gate.clone()), ..Options::default() }).await;
    let load = Load::Open { rate: 100.0, arrivals: Arrivals::Constant };
    let tester = Tester::new(&server, load, workload(20)).await;
    let all_sent = async {
        eventually("all are sent although none is served", || server.engine.num_requests() == 20).await;
        gate.open();
    };
    let (records, ()) = tokio::join!(tester.run(), all_sent);
    // The gate opened after the last was sent, which was not before its time.
    let last_due = 19.0 / 100.0;
    for record in &records {
        let waited = record.ttft().expect("tokens came");
        assert!((record.intended - record.index as f64 / 100.0).abs() < 1e-9);
        assert!(waited >= last_due - record.intended, "request {}: {waited} s", record.index);
    }
    let summary = Summary::of(&tester.setup, &records, None);
    assert!(summary.ttft_ms.p50 >= 85.0 && summary.ttft_ms.max >= 190.0, "{:?}", summary.ttft_ms);
    assert_eq!(summary.peak_in_flight, 20);
}

/// LOAD-3.
#[tokio::test]
async fn a_closed_loop_keeps_its_concurrency() {
    covers!("LOAD-3");
    let gate = Gate::default();
    let server = TestServer::start(Options { gate: Some(gate.clone()), ..Options::default() }).await;
    let tester = Tester::new(&server, Load::Closed { concurrency: 3 }, workload(10)).await;
    let three = async {
        eventually("three are sent", || server.engine.num_requests() == 3).await;
        gate.open();
    };
    let (records, ()) = tokio::join!(tester.run(), three);
    assert_eq!(Summary::of(&tester.setup, &records, None).peak_in_flight, 3);
}

/// LOAD-4: cancellations and deadlines come as planned and are told apart from failures.
#[tokio::test]
async fn cancellations_and_failures_are_told_apart() {
    covers!("LOAD-4");
    let gate = Gate::default();
    let server = TestServer::start(Options { gate: Some(gate.clone()), ..Options::default() }).await;
    gate.open();
    let planned = Workload { cancel_percent: 40.0, ..workload(50) };
    let tester = Tester::new(&server, Load::Closed { concurrency: 8 }, planned).await;
    let records = tester.run().await;
    let summary = Summary::of(&tester.setup, &records, None);
    let cancelled = tester.plan.iter().filter(|planned| planned.cancel_after.is_some()).count();
    assert!(cancelled > 5);
    assert_eq!((summary.cancelled, summary.completed, summary.failed), (cancelled, 50 - cancelled, 0));
    server.at_rest().await;

    let held = TestServer::start(Options { gate: Some(Gate::default()), ..Options::default() }).await;
    let planned = Workload { deadline_ms: Some(50), ..workload(6) };
    let tester = Tester::new(&held, Load::Closed { concurrency: 6 }, planned).await;
    let summary = Summary::of(&tester.setup, &tester.run().await, None);
    assert_eq!((summary.completed, summary.failed), (0, 6));
    assert!(summary.errors.keys().all(|error| error.starts_with("DEADLINE_EXCEEDED")), "{:?}", summary.errors);
    let text = report_text::report(&tester.setup, &summary);
    assert!(text.contains("DEADLINE_EXCEEDED"), "{text}");
}

/// LOAD-5: sending again finds no difference where there is none, and one where there is.
#[tokio::test]
async fn transparency_is_checked() {
    covers!("LOAD-5");
    let server = TestServer::start(Options::default()).await;
    let planned = Workload { sampling: SamplingMix::Mixed, ..workload(30) };
    let tester = Tester::new(&server, FAST, planned).await;
    let mut records = tester.run().await;
    let result = verify(&tester.client, &tester.plan, &records, 50.0, 1).await;
    assert!(result.holds() && result.checked == 15, "{result:?}");
    records[3].token_ids[1] ^= 1;
    records[8].text.push('x');
    let result = verify(&tester.client, &tester.plan, &records, 100.0, 1).await;
    let mut different = result.different.clone();
    different.sort_unstable();
    assert_eq!((result.checked, different, result.holds()), (30, vec![3, 8], false));
}

/// LOAD-6: goodput counts requests that kept every objective.
#[tokio::test]
async fn goodput_counts_what_kept_the_objectives() {
    covers!("LOAD-6");
    let server = TestServer::start(Options::default()).await;
    let mut tester = Tester::new(&server, Load::Closed { concurrency: 4 }, workload(20)).await;
    let records = tester.run().await;
    for (limit_ms, good) in [(1e9, 20), (1e-6, 0)] {
        tester.setup.slo = Slo { ttft_ms: Some(limit_ms), itl_ms: None };
        assert_eq!(Summary::of(&tester.setup, &records, None).good, Some(good));
    }
    let mut ttfts: Vec<f64> = records.iter().filter_map(Record::ttft).collect();
    ttfts.sort_by(f64::total_cmp);
    tester.setup.slo = Slo { ttft_ms: Some((ttfts[9] + ttfts[10]) / 2.0 * 1e3), itl_ms: None };
    let expected = ttfts.iter().filter(|ttft| **ttft <= (ttfts[9] + ttfts[10]) / 2.0).count();
    assert_eq!(Summary::of(&tester.setup, &records, None).good, Some(expected));
}

/// LOAD-7: the progress is told of every request once.
#[tokio::test]
async fn progress_is_told() {
    covers!("LOAD-7");
    let server = TestServer::start(Options::default()).await;
    let tester = Tester::new(&server, FAST, workload(25)).await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let progress: Progress = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    run(&tester.client, &tester.plan, FAST, 1, &progress).await;
    assert_eq!(count.load(Ordering::Relaxed), 25);
}

fn bench(arguments: &[&str]) -> Output {
    command().args(["bench", "serve"]).args(arguments).output().expect("the binary runs")
}

/// LOAD-8: the command against a served model; the keys of `vllm bench serve`.
#[test]
fn the_command_writes_the_figures() {
    covers!("LOAD-8");
    let (directory, path) = model_file();
    let mut process = Process::start(&path, &["--max-num-seqs", "8"]);
    process.ready();
    let target = format!("http://{}", process.grpc);
    let out = directory.path().join("out.json");
    let json = out.to_str().expect("UTF-8");
    let lengths = ["--target", &target, "--requests", "12", "--prompt-tokens", "4-9", "--gen-tokens", "6"];
    let page = directory.path().join("out.html");
    let html = page.to_str().expect("UTF-8");
    let more = [
        "--html",
        html,
        "--json",
        json,
        "--verify-transparency",
        "50",
        "--sampling",
        "mixed",
        "--slo-ttft-ms",
        "60000",
    ];
    for load in [["--concurrency", "4"], ["--rate", "200"]] {
        let output = bench(&[&lengths[..], &more, &load].concat());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(text.contains("time to first token") && text.contains("gave the same tokens"), "{text}");
        let read = std::fs::read_to_string(&out).expect("written");
        let report: serde_json::Value = serde_json::from_str(&read).expect("JSON");
        let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} in {read}"));
        assert_eq!((number("completed"), number("failed"), number("total_output_tokens")), (12.0, 0.0, 72.0));
        for measure in ["ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"] {
            let [median, p99, max] = ["median", "p99", "max"].map(|figure| number(&format!("{figure}_{measure}")));
            // A server this fast may send all tokens in one message: then there are no gaps.
            let has_samples = max > 0.0 || !["ttft_ms", "e2el_ms"].contains(&measure);
            assert!(has_samples && median <= p99 && p99 <= max, "{read}");
            assert!((0.0..=max).contains(&number(&format!("mean_{measure}"))));
        }
        let ratio = number("output_throughput") / number("request_throughput");
        assert!((ratio - 6.0).abs() < 1e-9 && number("request_goodput") > 0.0);
        let page = std::fs::read_to_string(&page).expect("written");
        assert!(page.matches("<svg").count() == 5 && page.matches("<circle").count() == 12, "{page}");
        for outside in ["src=", "href=", "url(", "@import", "<script", "NaN"] {
            assert!(!page.contains(outside), "{outside} in {page}");
        }
        let all = number("total_input_tokens") + 72.0;
        let throughput = number("total_token_throughput") * number("duration");
        assert!((throughput - all).abs() < 1e-6 * all);
    }
}

/// LOAD-9: what is wrong is one line and an exit code.
#[test]
fn wrong_targets_and_flags_have_their_exit_codes() {
    covers!("LOAD-9");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let nobody = format!("http://{free}");
    let load = ["--concurrency", "1", "--requests", "1"];
    let code = |arguments: &[&str]| {
        let output = bench(arguments);
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (status, line) = code(&[&["--target", &nobody][..], &load].concat());
    assert_eq!((status, line.contains(&nobody), line.lines().count()), (Some(69), true, 1), "{line}");
    for target in ["http+openai://", "http+llama://x:1/v1", "http+other://x:1", "https://x:1", "x:1"] {
        let (status, line) = code(&[&["--target", target][..], &load].concat());
        assert_eq!((status, line.contains(target)), (Some(2), true), "{line}");
    }
    let (status, line) = code(&[&["--target", "http+openai://x:1", "--tenant", "a"][..], &load].concat());
    assert_eq!((status, line.contains("tenant")), (Some(2), true), "{line}");
    for flags in [
        &["--requests", "1"][..],
        &["--requests", "1", "--rate", "1", "--concurrency", "1"],
        &["--requests", "1", "--rate", "0"],
        &["--requests", "1", "--rate", "NaN"],
        &["--requests", "1", "--concurrency", "1", "--burstiness", "2"],
        &["--requests", "1", "--concurrency", "1", "--gen-tokens", "0"],
        &["--requests", "1", "--concurrency", "1", "--sweep", "rate"],
        &["--requests", "1", "--sweep", "rate=2,1"],
        &["--requests", "1", "--sweep", "concurrency=1,2", "--burstiness", "2"],
    ] {
        assert_eq!(code(flags).0, Some(2), "{flags:?}");
    }
}

/// The tenant arrives with every request: the server refuses one that cannot be.
#[tokio::test]
async fn requests_are_the_tenants() {
    let server = TestServer::start(Options::default()).await;
    for (tenant, completed) in [("a", 5), ("not one", 0)] {
        let mut tester = Tester::new(&server, FAST, workload(5)).await;
        let client = Target::connect(&tester.setup.target, 1, false, tenant).await.expect("the server listens");
        tester.client = Arc::new(client);
        let summary = Summary::of(&tester.setup, &tester.run().await, None);
        assert_eq!((summary.completed, summary.failed), (completed, 5 - completed), "{tenant}");
    }
}

/// LOAD-10: a run that means nothing says so in every report.
#[tokio::test]
async fn warnings_are_in_the_reports() {
    covers!("LOAD-10");
    let server = TestServer::start(Options::default()).await;
    let tester = Tester::new(&server, FAST, workload(40)).await;
    let mut records = tester.run().await;
    for record in &mut records {
        record.sent = record.intended + 0.5;
        record.ended = record.sent + 1.0;
    }
    let summary = Summary::of(&tester.setup, &records, None);
    let warning = "THE CLIENT COULD NOT KEEP UP";
    assert!(report_text::report(&tester.setup, &summary).starts_with(&format!("!! {warning}")));
    let page = report_html::report(&tester.setup, &summary, &records);
    assert!(page.contains(&format!("<div class=\"warn\">{warning}")));
    let json = report_json::report(&tester.setup, &summary);
    assert_eq!(json["llorch_client_too_slow"], true);
    assert!(json["llorch_warnings"][0].as_str().expect("a line").contains(warning));
}

/// LOAD-10: an open loop beyond what the server can do is told in every report, in those of a sweep too.
#[tokio::test]
async fn saturation_is_in_the_reports() {
    covers!("LOAD-10");
    let server = TestServer::start(Options::default()).await;
    let load = Load::Open { rate: 2000.0, arrivals: Arrivals::Constant };
    let tester = Tester::new(&server, load, workload(60)).await;
    let mut records = tester.run().await;
    // As if the server had taken 5 ms for each, one after the other: a tenth of the rate.
    let mut free = 0.0f64;
    for record in &mut records {
        record.sent = record.intended;
        free = free.max(record.intended) + 0.005;
        record.ended = free;
    }
    let summary = Summary::of(&tester.setup, &records, None);
    let (setup, warning) = (&tester.setup, "SATURATED: ");
    let text = report_text::report(setup, &summary);
    assert!(text.starts_with(&format!("!! {warning}")) && text.matches(warning).count() == 2, "{text}");
    let page = report_html::report(setup, &summary, &records);
    assert!(page.contains(&format!("<div class=\"warn\">{warning}")));
    let json = report_json::report(setup, &summary);
    assert_eq!(json["llorch_saturated"], true);
    assert!(json["llorch_warnings"][0].as_str().expect("a line").starts_with(warning));

    let few = Summary::of(setup, &records[..3], None);
    let warning_of_few = report_json::report(setup, &few)["llorch_warnings"][0].clone();
    assert!(few.verdict.too_short && warning_of_few.as_str().is_some_and(|line| line.starts_with("TOO SHORT")));
    let points = [Point { value: 5.0, setup: setup.clone(), summary: few }];
    let text = sweep_report::text(Axis::Rate, &points);
    assert!(text.contains("  ? ") && text.contains("!! rate 5: TOO SHORT"), "{text}");

    let points = [Point { value: 2000.0, setup: setup.clone(), summary }];
    let warning = format!("rate 2000: {warning}");
    let text = sweep_report::text(Axis::Rate, &points);
    assert!(text.contains(&format!("!! {warning}")) && text.contains("  yes "), "{text}");
    assert!(sweep_html::page(Axis::Rate, &points).contains(&format!("<div class=\"warn\">{warning}")));
    assert_eq!(sweep_report::json(Axis::Rate, &points)["points"][0]["llorch_saturated"], true);
}

/// LOAD-14: the command runs every point, with prompts of its own, and writes all of them.
#[test]
fn the_command_sweeps() {
    covers!("LOAD-14");
    let (directory, path) = model_file();
    let mut process = Process::start(&path, &["--max-num-seqs", "8"]);
    process.ready();
    let target = format!("http://{}", process.grpc);
    let [json, html] = ["out.json", "out.html"].map(|name| directory.path().join(name));
    let files = ["--json", json.to_str().expect("UTF-8"), "--html", html.to_str().expect("UTF-8")];
    let lengths = ["--target", &target, "--requests", "6", "--prompt-tokens", "4-9", "--gen-tokens", "6"];
    for (sweep, key, prompts) in
        [("concurrency=1,2,4", "max_concurrency", [6, 8, 16]), ("rate=50,100,200", "request_rate", [6, 6, 6])]
    {
        let output = bench(&[&lengths[..], &files, &["--sweep", sweep]].concat());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("knee") && text.contains("out tok/s"), "{text}");
        let report: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&json).expect("written")).expect("JSON");
        let points = report["points"].as_array().expect("points");
        let (axis, values) = sweep.split_once('=').expect("a list");
        assert_eq!(report["llorch_sweep"], axis);
        let loads: Vec<String> = points.iter().map(|point| format!("{}", point[key].as_f64().expect(key))).collect();
        assert_eq!(loads.join(","), values);
        for (index, (point, prompts)) in points.iter().zip(prompts).enumerate() {
            assert_eq!((&point["completed"], &point["num_prompts"]), (&json!(prompts), &json!(prompts)));
            assert_eq!(point["seed"], index);
        }
        let page = std::fs::read_to_string(&html).expect("written");
        // Three charts, of which two have two lines.
        assert_eq!((page.matches("<svg").count(), page.matches("class=\"dot").count()), (3, 15), "{page}");
        assert!(!page.contains("NaN"), "{page}");
    }
}
