//! Over gRPC: what requests share through the prefix cache, and what the sequences of one request share.

use crate::support::client::{Options, TestServer, greedy_ids, request, text_of};
use llorch_cpud::server::proto::{GenerateRequest, KvOptions, ResponseOptions, SamplingParams};

/// 9 tokens in blocks of 4: two of them full.
const PROMPT: [u32; 9] = [1, 70, 71, 72, 73, 74, 75, 76, 77];

fn salted(salt: &str) -> GenerateRequest {
    GenerateRequest { kv: Some(KvOptions { cache_salt: salt.into(), ..Default::default() }), ..request(&PROMPT, 3) }
}

/// `n` random sequences with their log-probabilities.
fn random(n: u32, best_of: Option<u32>) -> GenerateRequest {
    let mut wanted = request(&PROMPT, 11);
    (wanted.n, wanted.best_of) = (Some(n), best_of);
    wanted.sampling = Some(SamplingParams { seed: Some(3), ..Default::default() });
    wanted.response = Some(ResponseOptions { top_logprobs: Some(1), ..Default::default() });
    wanted
}

/// API-14: the cache is on, tells what it supplied, and changes no token.
#[tokio::test]
async fn cached_tokens_are_told() {
    covers!("API-14");
    let server = TestServer::start(Options::default()).await;
    let bypass = GenerateRequest {
        kv: Some(KvOptions { bypass_prefix_cache: true, ..Default::default() }),
        ..request(&PROMPT, 3)
    };
    let runs = [
        (bypass.clone(), 0),
        (request(&PROMPT, 3), 0),
        (request(&PROMPT, 3), 8),
        (bypass, 0),
        (salted("a"), 0),
        (salted("b"), 0),
        (salted("a"), 8),
        (request(&PROMPT[..8], 3), 4),
    ];
    for (number, (wanted, cached)) in runs.into_iter().enumerate() {
        let prompt_len = if number == 7 { 8 } else { 9 };
        let completion = server.collect(wanted).await;
        let usage = completion.finished().usage.expect("usage");
        assert_eq!((usage.prompt_tokens, usage.cached_tokens), (prompt_len as u32, cached), "request {number}");
        assert_eq!(completion.text(), text_of(&greedy_ids(&PROMPT[..prompt_len], 3)), "request {number}");
        server.at_rest().await;
    }
    assert_eq!(server.metric("llorch_prompt_tokens_total{source=\"cached\"}"), 20.0);
    assert_eq!(server.metric("llorch_prompt_tokens_total{source=\"computed\"}"), 7.0 * 9.0 + 8.0 - 20.0);
    assert_eq!(server.metric("llorch_prefix_cache_queried_tokens_total"), 5.0 * 9.0 + 8.0);
    assert_eq!(server.metric("llorch_prefix_cache_hit_tokens_total"), 20.0);
    let load = server.engine.load();
    assert_eq!((load.kv_blocks_used, load.kv_blocks_cached + load.kv_blocks_free), (0, 2048));
    // Three salts, with two full blocks of the prompt each, and what was generated after 8 tokens.
    assert!(load.kv_blocks_cached >= 6, "{load:?}");
}

/// API-14: what one tenant left serves the same tenant alone.
#[tokio::test]
async fn tenants_share_no_prefix() {
    covers!("API-14", "API-16");
    let server = TestServer::start(Options::default()).await;
    let of = |tenant: &str| GenerateRequest { tenant: tenant.into(), ..request(&PROMPT, 3) };
    for (tenant, cached) in [("a", 0), ("b", 0), ("", 0), ("a", 8), ("b", 8), ("", 8), ("ab", 0), ("A", 0)] {
        let completion = server.collect(of(tenant)).await;
        assert_eq!(completion.finished().usage.map(|usage| usage.cached_tokens), Some(cached), "{tenant}");
        assert_eq!(completion.text(), text_of(&greedy_ids(&PROMPT, 3)));
        server.at_rest().await;
    }
    // A salt that looks like another tenant is none.
    let mut salted = of("a");
    salted.kv = Some(KvOptions { cache_salt: "b".into(), ..Default::default() });
    assert_eq!(server.collect(salted).await.finished().usage.map(|usage| usage.cached_tokens), Some(0));
}

/// API-5: the prompt of n sequences is computed once.
#[tokio::test]
async fn the_prompt_of_many_sequences_is_computed_once() {
    covers!("API-5");
    let server = TestServer::start(Options::default()).await;
    let completion = server.collect(GenerateRequest { n: Some(60), ..request(&PROMPT, 5) }).await;
    assert_eq!(completion.sequences.len(), 60);
    let expected = text_of(&greedy_ids(&PROMPT, 5));
    assert!(completion.sequences.iter().all(|sequence| sequence.text == expected));
    server.at_rest().await;
    assert_eq!(server.metric("llorch_prompt_tokens_total{source=\"computed\"}"), 9.0);
    assert_eq!(server.metric("llorch_step_tokens_sum"), 9.0 + 60.0 * 4.0);
    // More than there are places.
    let completion = server.collect(GenerateRequest { n: Some(128), ..request(&PROMPT, 5) }).await;
    assert!(completion.sequences.len() == 128 && completion.sequences.iter().all(|s| s.text == expected));
    server.at_rest().await;
}

/// API-15: of `best_of` sequences the `n` of the highest cumulative log-probability, the best first.
#[tokio::test]
async fn the_best_of_more_sequences_are_returned() {
    covers!("API-15");
    let server = TestServer::start(Options::default()).await;
    let all = server.collect(random(7, None)).await;
    let sum = |tokens: &[llorch_cpud::server::proto::Token]| -> f64 {
        tokens.iter().map(|token| f64::from(token.logprob.expect("asked for"))).sum()
    };
    let mut ranked: Vec<_> = all.sequences.iter().collect();
    ranked.sort_by(|a, b| sum(&b.tokens).total_cmp(&sum(&a.tokens)));
    assert!(ranked[0].finished.index != 0 || ranked[1].finished.index != 1, "choose another seed");
    let best = server.collect(random(3, Some(7))).await;
    assert_eq!(best.sequences.len(), 3);
    for (rank, (best, expected)) in best.sequences.iter().zip(&ranked).enumerate() {
        assert_eq!((&best.text, &best.tokens), (&expected.text, &expected.tokens), "rank {rank}");
        assert_eq!(best.finished.index, rank as u32);
        let counts = |s: &crate::support::client::Sequence| s.finished.usage.map(|usage| usage.completion_tokens);
        assert_eq!(counts(best), counts(expected));
    }
    // Log-probabilities that nobody asked for are not sent.
    let mut silent = random(3, Some(7));
    silent.response = Some(ResponseOptions { token_ids: true, ..Default::default() });
    let whole = server.inference().complete(silent).await.expect("a completion").into_inner();
    assert_eq!(whole.outputs.len(), 3);
    for (output, best) in whole.outputs.iter().zip(&best.sequences) {
        assert_eq!(output.text, best.text);
        assert!(output.tokens.iter().all(|token| token.logprob.is_none() && token.top.is_empty()));
    }
    server.at_rest().await;
}
