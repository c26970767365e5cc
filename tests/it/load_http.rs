//! The load tester over HTTP (`specs/load-tester.md`), against a server of the tests that does as it is told.

use crate::support;
use crate::support::client::eventually;
use crate::support::http::{Answer, End, HttpServer, models};
use crate::support::process::command;
use llorch_cpud::load::record::{Outcome, Record};
use llorch_cpud::load::run::{Load, Progress, run};
use llorch_cpud::load::summary::{Setup, Slo, Summary};
use llorch_cpud::load::target::Target;
use llorch_cpud::load::transparency::verify;
use llorch_cpud::load::workload::{Length, PlannedRequest, Workload};
use llorch_cpud::load::{report_html, report_json, report_text};
use serde_json::{Value, json};
use std::sync::Arc;

const SCHEMES: [&str; 2] = ["http+openai", "http+llama"];
const VOCAB_SIZE: u32 = 1000;

fn workload(requests: usize) -> Workload {
    support::load::workload(requests, Length { min: 5, max: 5 })
}

struct Tester {
    target: Arc<Target>,
    plan: Arc<Vec<PlannedRequest>>,
    setup: Setup,
}

impl Tester {
    async fn new(server: &HttpServer, scheme: &str, workload: Workload) -> Self {
        let url = format!("{scheme}://{}", server.address);
        let target = Arc::new(Target::connect(&url, 1, false, "").await.expect("the server listens"));
        let info = target.info().await.expect("a model");
        let plan = Arc::new(workload.plan(info.vocab_size.expect("told")));
        let load = Load::Closed { concurrency: 3 };
        Self { target, plan, setup: Setup { target: url, info, load, workload, slo: Slo::default() } }
    }

    async fn run(&self) -> (Vec<Record>, Summary) {
        let silent: Progress = Arc::new(|_| {});
        let records = run(&self.target, &self.plan, self.setup.load, 7, &silent).await;
        let summary = Summary::of(&self.setup, &records, None);
        (records, summary)
    }
}

/// The text of token number `index` of a request.
fn word(index: u32) -> String {
    [" one", " zwei", " trois", " č", " 五"][index as usize % 5].to_owned()
}

/// The events of an answer of `shown` tokens that says it is of `said`, in either interface.
fn events(body: &Value, shown: u32, said: u32) -> Vec<String> {
    let mut events: Vec<Value> = Vec::new();
    if body["n_predict"].is_u64() {
        let token = |i| json!({"content": word(i), "tokens": [i + 7], "stop": false, "tokens_predicted": i + 1});
        events.extend((0..shown).map(token));
        events.push(json!({"content": "", "tokens": [], "stop": true, "tokens_predicted": said}));
        return events.iter().map(Value::to_string).collect();
    }
    let token = |i| json!({"choices": [{"index": 0, "text": word(i), "finish_reason": null}], "usage": null});
    events.extend((0..shown).map(token));
    events.push(json!({"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": null}));
    events.push(json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": said}}));
    events.iter().map(Value::to_string).chain(["[DONE]".to_owned()]).collect()
}

/// LOAD-1 and LOAD-11: the plan arrives whole in both interfaces, and the tokens are counted wherever packets end.
#[tokio::test]
async fn the_plan_arrives_and_is_counted_however_packets_are_cut() {
    covers!("LOAD-1", "LOAD-11");
    for scheme in SCHEMES {
        for size in [1, 7, 64, 1 << 20] {
            let answer = move |_, body: &Value| Answer::events(&events(body, 5, 5)).cut_into(size);
            let server = HttpServer::start(models(VOCAB_SIZE), answer).await;
            let tester = Tester::new(&server, scheme, workload(20)).await;
            let (records, summary) = tester.run().await;
            assert_eq!((summary.completed, summary.output_tokens, summary.miscounted), (20, 100, 0));
            let llama = scheme == "http+llama";
            for record in &records {
                assert_eq!(record.chunks.iter().map(|chunk| chunk.tokens).collect::<Vec<_>>(), [1; 5]);
                assert_eq!(record.text, " one zwei trois č 五");
                assert_eq!(record.token_ids, if llama { vec![7, 8, 9, 10, 11] } else { Vec::new() });
                assert!(record.chunks.is_sorted_by(|a, b| a.at <= b.at) && record.sent <= record.chunks[0].at);
            }
            let mut came: Vec<Value> = server.requests().iter().map(|(_, body)| body["prompt"].clone()).collect();
            let mut planned: Vec<Value> = tester.plan.iter().map(|planned| json!(planned.prompt)).collect();
            came.sort_by_key(Value::to_string);
            planned.sort_by_key(Value::to_string);
            assert_eq!(came, planned);
            let path = if llama { "/completion" } else { "/v1/completions" };
            assert!(server.requests().iter().all(|(came, _)| came == path));
            assert_eq!((tester.setup.info.model.as_str(), tester.setup.info.vocab_size), ("m", Some(VOCAB_SIZE)));
        }
    }
}

/// LOAD-12: each way in which an answer can be bad has its own name, and the run goes on.
#[tokio::test]
async fn bad_answers_are_told_apart() {
    covers!("LOAD-12");
    for scheme in SCHEMES {
        let answer = |number: usize, body: &Value| {
            let good = Answer::events(&events(body, 5, 5));
            let begun = Answer::events(&events(body, 3, 5)[..3]);
            let then = |event: &str| Answer::events(&[&events(body, 2, 2)[..2], &[event.to_owned()]].concat());
            match number {
                0 => Answer::status(503),
                1 => Answer::status(429),
                2 => begun.ending(End::Cut),
                3 => begun,
                4 => then("{\"choices\": ["),
                5 => then("{\"error\": {\"code\": 500, \"message\": \"slot lost\"}}"),
                _ => good,
            }
        };
        let server = HttpServer::start(models(VOCAB_SIZE), answer).await;
        let tester = Tester::new(&server, scheme, workload(9)).await;
        let (records, summary) = tester.run().await;
        let errors: Vec<(&str, usize)> = summary.errors.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let expected =
            ["BAD_EVENT", "ERROR_EVENT/500", "HTTP 429", "HTTP 503", "HTTP CUT", "INCOMPLETE"].map(|name| (name, 1));
        assert_eq!(errors, expected);
        assert_eq!((summary.completed, summary.failed, summary.output_tokens), (3, 6, 15));
        assert_eq!(summary.lost_tokens, 3 + 3 + 2 + 2, "{records:?}");
        assert_eq!(summary.messages["HTTP 503"], "no");
        assert_eq!(summary.messages["ERROR_EVENT/500"], "slot lost");
        assert!(report_text::report(&tester.setup, &summary).contains("slot lost"));
    }
}

/// LOAD-12: a server that is gone in the middle of a run.
#[tokio::test]
async fn a_lost_server_fails_the_requests() {
    covers!("LOAD-12");
    let answer = |_, body: &Value| Answer::events(&events(body, 5, 5)).ending(End::Cut);
    let server = HttpServer::start(models(VOCAB_SIZE), answer).await;
    let tester = Tester::new(&server, "http+llama", workload(4)).await;
    drop(server);
    eventually("the port is closed", || {
        let address = tester.setup.target.trim_start_matches("http+llama://");
        std::net::TcpStream::connect(address).is_err()
    })
    .await;
    let (_, summary) = tester.run().await;
    assert_eq!((summary.completed, summary.failed), (0, 4));
    assert!(summary.errors.keys().all(|error| error.starts_with("HTTP C")), "{:?}", summary.errors);
}

/// LOAD-13: the server's own count is the one that counts, and a difference from what was shown is told.
#[tokio::test]
async fn the_servers_count_is_believed_and_differences_are_told() {
    covers!("LOAD-13");
    for scheme in SCHEMES {
        let answer = |number: usize, body: &Value| Answer::events(&events(body, 3 + number as u32 % 3, 5));
        let server = HttpServer::start(models(VOCAB_SIZE), answer).await;
        let tester = Tester::new(&server, scheme, workload(9)).await;
        let (records, summary) = tester.run().await;
        assert_eq!((summary.completed, summary.output_tokens, summary.miscounted), (9, 45, 6));
        assert_eq!(records.iter().map(Record::shown_tokens).sum::<u64>(), 3 * (3 + 4 + 5));
        assert!(report_text::report(&tester.setup, &summary).contains("counted otherwise"));
        assert_eq!(report_json::report(&tester.setup, &summary)["llorch_miscounted"], 6);
        assert!(summary.verdict.warnings().is_empty());
    }
}

/// LOAD-10: a server that stops before the tokens asked for makes a run that means something else.
#[tokio::test]
async fn other_lengths_are_said_in_every_report() {
    covers!("LOAD-10");
    let answer = |number: usize, body: &Value| {
        let tokens = if number < 2 { 4 } else { 5 };
        Answer::events(&events(body, tokens, tokens))
    };
    let server = HttpServer::start(models(VOCAB_SIZE), answer).await;
    let tester = Tester::new(&server, "http+openai", workload(6)).await;
    let (records, summary) = tester.run().await;
    let warning = "OTHER LENGTHS: 2 completed requests";
    assert!(report_text::report(&tester.setup, &summary).starts_with(&format!("!! {warning}")));
    assert!(report_html::report(&tester.setup, &summary, &records).contains(warning));
    let json = report_json::report(&tester.setup, &summary);
    assert!(json["llorch_warnings"][0].as_str().expect("a line").contains(warning));
    assert_eq!((&json["llorch_other_lengths"], &json["backend"]), (&json!(2), &json!("openai")));
}

/// LOAD-4: a cancellation and a deadline close the connection, which is how an HTTP server learns of them.
#[tokio::test]
async fn cancellations_and_deadlines_close_the_connection() {
    covers!("LOAD-4");
    for scheme in SCHEMES {
        let answer = |_, body: &Value| Answer::events(&events(body, 4, 5)[..4]).ending(End::Hold);
        let server = HttpServer::start(models(VOCAB_SIZE), answer).await;
        let tester = Tester::new(&server, scheme, Workload { cancel_percent: 100.0, ..workload(8) }).await;
        let (records, summary) = tester.run().await;
        assert_eq!((summary.cancelled, summary.completed, summary.failed), (8, 0, 0));
        for (record, planned) in records.iter().zip(tester.plan.iter()) {
            assert!(Some(record.shown_tokens() as u32) >= planned.cancel_after);
        }
        eventually("every connection is closed", || server.abandoned() == 8).await;
        let tester = Tester::new(&server, scheme, Workload { deadline_ms: Some(30), ..workload(5) }).await;
        let (_, summary) = tester.run().await;
        assert_eq!(summary.errors.get("DEADLINE_EXCEEDED/CLIENT"), Some(&5), "{:?}", summary.errors);
        eventually("every connection is closed", || server.abandoned() == 13).await;
    }
}

/// LOAD-5: without token ids the text decides.
#[tokio::test]
async fn transparency_is_checked_on_text() {
    covers!("LOAD-5");
    let answer = |number: usize, body: &Value| {
        let mut events = events(body, 5, 5);
        if number == 12 {
            events[2] = events[2].replace("trois", "TROIS");
        }
        Answer::events(&events)
    };
    let server = HttpServer::start(models(VOCAB_SIZE), answer).await;
    let tester = Tester::new(&server, "http+openai", workload(10)).await;
    let (records, _) = tester.run().await;
    assert!(records.iter().all(|record| record.outcome == Outcome::Completed && record.token_ids.is_empty()));
    let result = verify(&tester.target, &tester.plan, &records, 100.0, 1).await;
    assert_eq!((result.checked, result.different.len(), result.failed.len()), (10, 1, 0));
}

/// LOAD-9: the command says what it needs, and runs where it has it.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_asks_for_what_the_server_does_not_tell() {
    covers!("LOAD-9");
    let bench = async |server: &HttpServer, more: &[&str]| {
        let mut bench = command();
        bench.args(["bench", "serve", "--concurrency", "2", "--requests", "6", "--gen-tokens", "5"]).args(more);
        bench.args(["--target", &format!("http+openai://{}", server.address)]);
        let run = tokio::task::spawn_blocking(move || bench.output().expect("the binary runs"));
        let output = run.await.expect("no panic");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let answer = |_, body: &Value| Answer::events(&events(body, 5, 5));
    let silent = HttpServer::start(json!({"data": [{"id": "m", "max_model_len": 64}]}), answer).await;
    let (code, _, error) = bench(&silent, &[]).await;
    assert_eq!((code, error.contains("--vocab-size")), (Some(2), true), "{error}");
    let (code, _, error) = bench(&silent, &["--vocab-size", "50", "--prompt-tokens", "60"]).await;
    assert_eq!((code, error.contains("--prompt-tokens 60")), (Some(2), true), "{error}");
    let (code, text, error) = bench(&silent, &["--vocab-size", "50", "--prompt-tokens", "30"]).await;
    assert_eq!((code, text.contains("output tokens                         30")), (Some(0), true), "{text}{error}");
    let prompts = silent.requests().into_iter().map(|(_, body)| body["prompt"].clone());
    assert!(prompts.flat_map(|p| p.as_array().cloned().expect("ids")).all(|id| id.as_u64() < Some(50)));
    let loading = HttpServer::start(Value::Null, answer).await;
    let (code, _, error) = bench(&loading, &[]).await;
    assert_eq!((code, error.contains("HTTP 503")), (Some(69), true), "{error}");
}
