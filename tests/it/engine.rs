//! The engine's promises about single sequences: how they end, and that their faults are theirs alone.

use crate::support::fake_model::{FakeModel, fake_engine, fake_engine_with};
use llorch_cpud::engine::request::{NewSequence, RequestError, Stage};
use llorch_cpud::engine::{Engine, StepReport};
use llorch_cpud::sampling::params::SequenceParams;
use llorch_cpud::scheduler::{FirstRun, SchedulerConfig};
use llorch_cpud::types::{CacheDomain, FinishReason, SeqId, TokenId};
use std::sync::Arc;

const VOCAB: usize = 32;

fn limits() -> SchedulerConfig {
    SchedulerConfig { max_num_seqs: 8, max_num_batched_tokens: 16, num_blocks: 32, block_size: 4, max_model_len: 64 }
}

fn new_sequence(prompt: &[TokenId], params: SequenceParams) -> NewSequence {
    NewSequence::new(prompt.into(), Arc::new(params))
}

fn params(max_tokens: u32) -> SequenceParams {
    let mut params = SequenceParams::default();
    params.stopping.max_tokens = max_tokens;
    params
}

/// Steps until nothing is left; what each step reported.
fn run(engine: &mut Engine<FakeModel>) -> Vec<StepReport> {
    let mut reports = Vec::new();
    while engine.has_work() {
        reports.push(engine.step().clone());
        assert!(reports.len() < 10_000, "no end");
    }
    reports
}

/// The tokens of one sequence, and its end.
fn tokens_of(reports: &[StepReport], id: SeqId) -> (Vec<TokenId>, Option<Result<FinishReason, RequestError>>) {
    let (mut tokens, mut end) = (Vec::new(), None);
    for output in reports.iter().flat_map(|report| &report.outputs).filter(|output| output.id == id) {
        assert!(end.is_none(), "an output after the end");
        match &output.result {
            Ok((sampled, finish)) => {
                tokens.push(sampled.token);
                end = finish.map(|finish| Ok(finish.reason));
            }
            Err(error) => end = Some(Err(error.clone())),
        }
    }
    (tokens, end)
}

#[test]
fn generates_max_tokens_and_gives_all_blocks_back() {
    let mut engine = fake_engine(limits(), vec![], VOCAB);
    engine.submit(SeqId(1), new_sequence(&[3, 4, 5], params(10))).unwrap();
    assert_eq!(engine.stage(SeqId(1)), Some(Stage::Queue));
    let reports = run(&mut engine);
    let (tokens, end) = tokens_of(&reports, SeqId(1));
    assert_eq!((tokens.len(), end), (10, Some(Ok(FinishReason::Length))));
    assert_eq!((reports.len(), reports[0].num_tokens, reports[0].prompt_tokens_computed), (10, 3, 3));
    let first = FirstRun { id: SeqId(1), cached_tokens: 0 };
    assert_eq!((&reports[0].first_scheduled[..], reports[1].first_scheduled.len()), (&[first][..], 0));
    assert_eq!(engine.occupancy().blocks_used, 0);
    assert_eq!(engine.stage(SeqId(1)), None);
}

#[test]
fn a_step_without_work_does_nothing() {
    let mut engine = fake_engine(limits(), vec![], VOCAB);
    assert_eq!(engine.step().num_sequences, 0);
    assert!(!engine.has_work());
}

#[test]
fn the_context_ends_a_sequence() {
    covers!("GPT2-EMB-003", "GPT2-LOOP-002", "LLAMA2-EMB-003", "LLAMA2-LOOP-002");
    let mut engine = fake_engine(SchedulerConfig { max_model_len: 8, ..limits() }, vec![], VOCAB);
    engine.submit(SeqId(1), new_sequence(&[1, 2, 3], params(u32::MAX))).unwrap();
    let (tokens, end) = tokens_of(&run(&mut engine), SeqId(1));
    assert_eq!((tokens.len(), end), (5, Some(Ok(FinishReason::ContextLimit))));
}

#[test]
fn nan_logits_end_one_sequence_alone() {
    // The healthy sequence must not choose the marked token itself.
    let mut healthy = params(8);
    healthy.sampling.logit_bias = vec![(31, f32::NEG_INFINITY)];
    let alone = {
        let mut engine = fake_engine(limits(), vec![], VOCAB);
        engine.submit(SeqId(1), new_sequence(&[3, 4], healthy.clone())).unwrap();
        tokens_of(&run(&mut engine), SeqId(1))
    };
    let limits = limits();
    let mut model = FakeModel::new(VOCAB, limits.block_size);
    model.nan_token = Some(31);
    let mut engine = fake_engine_with(limits, vec![], model);
    engine.submit(SeqId(2), new_sequence(&[31], params(8))).unwrap();
    engine.submit(SeqId(1), new_sequence(&[3, 4], healthy)).unwrap();
    let reports = run(&mut engine);
    assert_eq!(tokens_of(&reports, SeqId(2)), (vec![], Some(Err(RequestError::NonFiniteLogits))));
    assert_eq!(tokens_of(&reports, SeqId(1)), alone);
    assert_eq!(engine.occupancy().blocks_used, 0);
}

#[test]
fn a_panic_in_sampling_ends_one_sequence_alone() {
    let mut engine = fake_engine(limits(), vec![], VOCAB);
    // A bias outside the vocabulary never passes the edge; here it stands for a bug in a processor.
    let mut broken = params(8);
    broken.sampling.logit_bias = vec![(VOCAB as TokenId, 1.0)];
    engine.submit(SeqId(1), new_sequence(&[3, 4], broken)).unwrap();
    engine.submit(SeqId(2), new_sequence(&[3, 4], params(8))).unwrap();
    let reports = run(&mut engine);
    assert_eq!(tokens_of(&reports, SeqId(1)), (vec![], Some(Err(RequestError::SequencePanic))));
    assert_eq!(tokens_of(&reports, SeqId(2)).0.len(), 8);
    assert_eq!(engine.occupancy().blocks_used, 0);
}

#[test]
fn what_can_never_fit_is_refused() {
    let mut engine = fake_engine(SchedulerConfig { num_blocks: 3, ..limits() }, vec![], VOCAB);
    let refused = engine.submit(SeqId(1), new_sequence(&[1, 2, 3], params(10)));
    assert_eq!(refused, Err(RequestError::KvCapacity { needed: 4, available: 3 }));
    assert!(!engine.has_work());
    engine.submit(SeqId(1), new_sequence(&[1, 2, 3], params(9))).unwrap();
    assert_eq!(tokens_of(&run(&mut engine), SeqId(1)).0.len(), 9);
}

#[test]
fn an_abort_frees_at_once_and_silences() {
    let mut engine = fake_engine(limits(), vec![], VOCAB);
    engine.submit(SeqId(1), new_sequence(&[1, 2, 3], params(10))).unwrap();
    engine.submit(SeqId(2), new_sequence(&[1; 40], params(10))).unwrap();
    engine.step();
    assert_eq!((engine.stage(SeqId(1)), engine.stage(SeqId(2))), (Some(Stage::Decode), Some(Stage::Prefill)));
    assert_eq!(engine.abort(SeqId(2)), Some(Stage::Prefill));
    assert_eq!(engine.abort(SeqId(2)), None);
    assert_eq!(engine.occupancy().blocks_used, 1);
    assert!(tokens_of(&run(&mut engine), SeqId(2)).0.is_empty());
}

fn cached(prompt: &[TokenId], params: SequenceParams, salt: &str) -> NewSequence {
    NewSequence { domain: Some(CacheDomain::new("model", "", salt)), ..new_sequence(prompt, params) }
}

/// Submits, runs to the end, and tells the tokens, those that were computed and those that the cache supplied.
fn run_alone(engine: &mut Engine<FakeModel>, id: u64, new: NewSequence) -> (Vec<TokenId>, u32, u32) {
    engine.submit(SeqId(id), new).unwrap();
    let reports = run(engine);
    let computed = reports.iter().map(|report| report.num_tokens).sum();
    let cached = reports.iter().flat_map(|report| &report.first_scheduled).map(|first| first.cached_tokens).sum();
    (tokens_of(&reports, SeqId(id)).0, computed, cached)
}

/// SCH-17, SCH-13.
#[test]
fn a_prompt_is_computed_once_a_domain() {
    covers!("SCH-17", "SCH-13");
    let prompt: Vec<TokenId> = (1..=21).collect();
    let mut engine = fake_engine(limits(), vec![], VOCAB);
    // 4 tokens are generated, 3 of them computed: 24 in all, 6 blocks of 4.
    let (tokens, computed, hit) = run_alone(&mut engine, 0, cached(&prompt, params(4), "a"));
    assert_eq!((tokens.len(), computed, hit), (4, 24, 0));
    assert_eq!((engine.occupancy().blocks_used, engine.occupancy().blocks_cached), (0, 6));
    assert_eq!(run_alone(&mut engine, 1, cached(&prompt, params(4), "a")), (tokens.clone(), 4, 20));
    assert_eq!(run_alone(&mut engine, 2, cached(&prompt, params(4), "b")), (tokens.clone(), 24, 0));
    assert_eq!(run_alone(&mut engine, 3, new_sequence(&prompt, params(4))), (tokens.clone(), 24, 0));
    // The next turn: all of the conversation but its last block is there.
    let turn = [&prompt[..], &tokens, &[7, 8, 9]].concat();
    let (_, computed, hit) = run_alone(&mut engine, 4, cached(&turn, params(1), "a"));
    assert_eq!((computed, hit), (4, 24));
    // A prompt of whole blocks leaves a token to compute, and with it its block.
    assert_eq!(run_alone(&mut engine, 5, cached(&prompt[..20], params(1), "a")).1, 4);
    engine.reset();
    assert_eq!(engine.occupancy().blocks_free, 32, "a reset forgets what is cached");
}

/// SCH-13: who bypasses the cache leaves nothing in it either.
#[test]
fn a_bypass_leaves_nothing_behind() {
    let mut engine = fake_engine(limits(), vec![], VOCAB);
    run_alone(&mut engine, 0, new_sequence(&[5; 30], params(4)));
    assert_eq!((engine.occupancy().blocks_cached, engine.occupancy().blocks_free), (0, 32));
}

/// SCH-16.
#[test]
fn blocks_of_nan_logits_leave_the_cache() {
    covers!("SCH-16");
    let mut model = FakeModel::new(VOCAB, limits().block_size);
    model.nan_token = Some(31);
    let mut engine = fake_engine_with(limits(), vec![], model);
    let healthy: Vec<TokenId> = (1..=16).collect();
    let mut unlike = params(8);
    unlike.sampling.logit_bias = vec![(31, f32::NEG_INFINITY)];
    let (tokens, ..) = run_alone(&mut engine, 0, cached(&healthy, unlike.clone(), ""));
    assert_eq!(engine.occupancy().blocks_cached, 5);
    // The first two blocks are shared with the healthy sequence, and so is their fate: what lies below goes as well.
    let ill = [&healthy[..8], &[31; 9]].concat();
    engine.submit(SeqId(1), cached(&ill, params(8), "")).unwrap();
    let reports = run(&mut engine);
    assert_eq!(tokens_of(&reports, SeqId(1)), (vec![], Some(Err(RequestError::NonFiniteLogits))));
    assert_eq!(reports[0].first_scheduled[0].cached_tokens, 8);
    assert_eq!((engine.occupancy().blocks_cached, engine.occupancy().blocks_used), (0, 0));
    assert_eq!(run_alone(&mut engine, 2, cached(&healthy, unlike, "")).0, tokens);
}

/// SCH-15: one pass over the prompt whatever n, with and without the prefix cache, and the tokens of separate runs.
#[test]
fn n_sequences_share_their_prompt() {
    covers!("SCH-15");
    for prompt_len in [7, 8, 9] {
        for use_cache in [false, true] {
            let prompt: Vec<TokenId> = (1..=prompt_len).collect();
            let mut random = params(6);
            random.sampling.seed = 11;
            let alone = |index: u32| {
                let mut engine = fake_engine(limits(), vec![], VOCAB);
                let new = NewSequence { index, ..new_sequence(&prompt, random.clone()) };
                run_alone(&mut engine, 0, new).0
            };
            let mut engine = fake_engine(limits(), vec![], VOCAB);
            let domain = use_cache.then(|| CacheDomain::new("model", "", ""));
            engine.submit(SeqId(5), NewSequence { n: 8, domain, ..new_sequence(&prompt, random.clone()) }).unwrap();
            let reports = run(&mut engine);
            let computed: u32 = reports.iter().map(|report| report.num_tokens).sum();
            assert_eq!((reports.len(), computed), (6, prompt_len + 8 * 5));
            assert_eq!(reports[0].first_scheduled.len(), 8);
            // All but the last to write into the last block of the prompt copy it.
            let copies: u32 = reports.iter().map(|report| report.num_copies).sum();
            assert_eq!(copies, if prompt_len % 4 == 0 { 0 } else { 7 });
            let expected: Vec<Vec<TokenId>> = (0..8).map(alone).collect();
            for (index, expected) in expected.iter().enumerate() {
                assert_eq!(tokens_of(&reports, SeqId(5 + index as u64)).0, *expected, "sequence {index}");
            }
            assert!(expected.iter().any(|tokens| *tokens != expected[0]), "all are the same");
            assert_eq!(engine.occupancy().blocks_used, 0);
        }
    }
}

/// SCH-15: more than can run at once, on a pool that fits one.
#[test]
fn more_sequences_than_places_end_all_the_same() {
    covers!("SCH-15");
    let narrow = SchedulerConfig { max_num_seqs: 3, num_blocks: 5, ..limits() };
    for use_cache in [false, true] {
        let mut engine = fake_engine(narrow, vec![], VOCAB);
        let domain = use_cache.then(|| CacheDomain::new("model", "", ""));
        let new = NewSequence { n: 10, domain, ..new_sequence(&[1, 2, 3, 4, 5, 6], params(13)) };
        engine.submit(SeqId(0), new).unwrap();
        let reports = run(&mut engine);
        for id in 0..10 {
            assert_eq!(tokens_of(&reports, SeqId(id)).0.len(), 13, "sequence {id}");
        }
        assert_eq!(engine.occupancy().blocks_used, 0);
    }
}

/// Until the prompt is computed the sequences of a submission are one.
#[test]
fn an_abort_before_the_fork_ends_all() {
    let mut engine = fake_engine(limits(), vec![], VOCAB);
    engine.submit(SeqId(0), NewSequence { n: 3, ..new_sequence(&[1; 30], params(5)) }).unwrap();
    engine.step();
    assert_eq!(engine.stage(SeqId(2)), Some(Stage::Prefill));
    assert_eq!(engine.abort(SeqId(1)), Some(Stage::Prefill));
    assert_eq!((engine.has_work(), engine.stage(SeqId(0))), (false, None));
    engine.submit(SeqId(3), NewSequence { n: 3, ..new_sequence(&[1; 3], params(5)) }).unwrap();
    engine.step();
    assert_eq!(engine.abort(SeqId(3)), Some(Stage::Decode));
    let reports = run(&mut engine);
    assert_eq!([4, 5].map(|id| tokens_of(&reports, SeqId(id)).0.len()), [4, 4]);
}

/// Point 3a: blocks that others refer to are not needed again, and cached ones are as good as free.
#[test]
fn blocks_that_are_shared_or_cached_do_not_stand_in_the_way() {
    let mut engine = fake_engine(SchedulerConfig { num_blocks: 8, ..limits() }, vec![], VOCAB);
    let prompt: Vec<TokenId> = (1..=17).collect();
    engine.submit(SeqId(0), cached(&prompt, params(8), "")).unwrap();
    // 17 tokens: a step of 16, a step of 1.
    engine.step();
    engine.step();
    assert_eq!((engine.occupancy().blocks_used, engine.occupancy().blocks_free), (5, 3));
    // Another needs 5 blocks, 4 of which are there; one more is for the first to grow into.
    engine.submit(SeqId(1), cached(&prompt, params(8), "")).unwrap();
    assert_eq!(engine.step().first_scheduled, [FirstRun { id: SeqId(1), cached_tokens: 16 }]);
    assert_eq!(engine.occupancy().blocks_used, 6);
    assert!(run(&mut engine).iter().all(|report| report.num_preempted == 0));
    // All is cached that is known, and another domain gets all of it.
    assert_eq!((engine.occupancy().blocks_used, engine.occupancy().blocks_free), (0, 2));
    let (tokens, computed, hit) = run_alone(&mut engine, 2, cached(&[9; 24], params(8), "other"));
    assert_eq!((tokens.len(), computed, hit), (8, 31, 0));
}
