//! The engine's promises about single sequences: how they end, and that their faults are theirs alone.

use crate::support::fake_model::{FakeModel, fake_engine, fake_engine_with};
use llorch_cpud::engine::request::{NewSequence, RequestError, Stage};
use llorch_cpud::engine::{Engine, StepReport};
use llorch_cpud::sampling::params::SequenceParams;
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{FinishReason, SeqId, TokenId};
use std::sync::Arc;

const VOCAB: usize = 32;

fn limits() -> SchedulerConfig {
    SchedulerConfig { max_num_seqs: 8, max_num_batched_tokens: 16, num_blocks: 32, block_size: 4, max_model_len: 64 }
}

fn new_sequence(prompt: &[TokenId], params: SequenceParams) -> NewSequence {
    NewSequence { prompt: prompt.into(), params: Arc::new(params), index: 0 }
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
    assert_eq!((&reports[0].first_scheduled[..], reports[1].first_scheduled.len()), (&[SeqId(1)][..], 0));
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
    let mut model = FakeModel::new(VOCAB, limits.num_blocks, limits.block_size);
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
