//! Sixty-four streams at once over real gRPC from a process that serves a real model: each gives, byte for byte, what
//! the same request gives alone, and the metrics show that they shared their steps.

use crate::support::client::{Output, metric};
use crate::support::process::{Process, collect, model_file};
use futures_util::future::join_all;
use llorch_cpud::server::proto::generate_request::Prompt;
use llorch_cpud::server::proto::{GenerateRequest, ResponseOptions, SamplingParams, StoppingOptions};
use tonic::transport::Channel;

const STREAMS: u32 = 64;
const TEXTS: [&str; 8] = [
    "Once upon a time",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "",
    "naïve café, 東京, 🙂",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "line one\nline two\n\n\tand a tab",
    "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
];

/// Request `index`: every one differs in prompt, length, temperature, filters, penalties or seed.
fn request(index: u32) -> GenerateRequest {
    let temperatures = [0.0, 0.3, 0.8, 1.0, 1.7];
    let sampling = SamplingParams {
        temperature: Some(temperatures[index as usize % temperatures.len()]),
        top_k: Some([0, 1, 5, 40][index as usize % 4]),
        top_p: Some([1.0, 0.9, 0.5][index as usize % 3]),
        min_p: Some([0.0, 0.05][index as usize % 2]),
        repetition_penalty: Some([1.0, 1.3][index as usize / 2 % 2]),
        frequency_penalty: Some([0.0, 0.4][index as usize / 4 % 2]),
        seed: Some(u64::from(index / 2)),
        ..Default::default()
    };
    let text = format!("{}{}", TEXTS[index as usize % TEXTS.len()], "ab ".repeat(index as usize / 8));
    GenerateRequest {
        prompt: Some(Prompt::Text(text)),
        sampling: Some(sampling),
        stopping: Some(StoppingOptions {
            max_tokens: Some(60 + index % 50),
            ignore_eos: !index.is_multiple_of(3),
            stop: if index.is_multiple_of(5) { vec!["qu".into(), "e e".into()] } else { vec![] },
            ..Default::default()
        }),
        response: Some(ResponseOptions {
            token_ids: index.is_multiple_of(2),
            top_logprobs: index.is_multiple_of(7).then_some(3),
            ..Default::default()
        }),
        n: Some(1 + u32::from(index.is_multiple_of(16))),
        ..Default::default()
    }
}

async fn outputs(channel: &Channel, index: u32) -> Vec<Output> {
    collect(channel, request(index)).await.outputs()
}

/// Sends all requests one after the other, then all at once, and compares. Returns the metrics before and after the
/// second round.
async fn compare(flags: &[&str]) -> (String, String) {
    let (_directory, path) = model_file();
    let mut process = Process::start(&path, flags);
    process.ready();
    let channel = process.connect().await;
    let mut alone = Vec::new();
    for index in 0..STREAMS {
        alone.push(outputs(&channel, index).await);
    }
    let before = process.metrics();
    let together = join_all((0..STREAMS).map(|index| outputs(&channel, index))).await;
    let after = process.metrics();
    for (index, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(alone, together, "stream {index}");
    }
    assert!(alone.iter().flatten().map(|output| output.4).sum::<u32>() > 30 * STREAMS, "the streams were long");
    assert_eq!(metric(&after, "llorch_kv_blocks{state=\"used\"}"), 0.0);
    (before, after)
}

fn grown(before: &str, after: &str, name: &str) -> f64 {
    metric(after, name) - metric(before, name)
}

#[tokio::test]
async fn streams_that_share_every_step_equal_their_solo_runs() {
    covers!("LAW-1");
    let (before, after) = compare(&["--max-num-seqs", "64"]).await;
    let steps = grown(&before, &after, "llorch_step_sequences_count");
    let mean = grown(&before, &after, "llorch_step_sequences_sum") / steps;
    assert!(mean >= 16.0, "{mean} sequences a step: the streams were meant to share their steps");
    assert_eq!(grown(&before, &after, "llorch_preemptions_total"), 0.0);
}

#[tokio::test]
async fn streams_that_preempt_each_other_equal_their_solo_runs() {
    covers!("LAW-1");
    let flags = ["--max-num-seqs", "64", "--block-size", "4", "--kv-cache", "256KiB"];
    let (before, after) = compare(&flags).await;
    assert!(grown(&before, &after, "llorch_preemptions_total") > 0.0, "the pool was meant to be too small");
    assert!(grown(&before, &after, "llorch_recomputed_tokens_total") > 0.0);
}
