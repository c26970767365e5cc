//! Traces: the format, what the recorder takes out of running batches, and what `compare` finds.
//!
//! `specs/08_TRACES.md` has the requirements that the tests name.

mod command;
mod comparing;
mod family;
mod faults;
mod float64;
mod hostile;
mod npy;
mod recording;

use crate::support::run_model::{Circumstances, load};
use llorch_cpud::engine::request::NewSequence;
use llorch_cpud::engine::{Engine, EngineConfig};
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kernels::Isa;
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::model::Model;
use llorch_cpud::sampling::params::{SamplingParams, SequenceParams, StopParams};
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::trace::Trace;
use llorch_cpud::trace::describe;
use llorch_cpud::trace::names::Name;
use llorch_cpud::trace::npy::Values;
use llorch_cpud::trace::recorder::Recorder;
use llorch_cpud::types::{SeqId, TokenId};
use std::any::Any;
use std::sync::Arc;

/// Prompt of the observed sequence: longer than a block, and than some steps.
const PROMPT: [TokenId; 11] = [7, 90, 211, 5, 33, 150, 64, 18, 250, 101, 12];

/// Two layers, two query heads a KV head, a tied embedding: its values are small, as those of real models are.
fn model() -> TestModel {
    TestModel { vocab: 300, ffn: 96, tied: true, ..TestModel::default() }
}

/// How a traced sequence is run: none of it may reach the trace, but for the path and the cache's type.
#[derive(Clone, Copy, Debug)]
struct Run {
    isa: Isa,
    kv_type: KvType,
    threads: usize,
    step_rows: usize,
    block_size: usize,
    num_blocks: usize,
    /// Other sequences, submitted before it.
    neighbours: usize,
    max_tokens: u32,
    max_model_len: u32,
}

impl Run {
    fn alone() -> Self {
        Self {
            isa: Isa::detect(),
            kv_type: KvType::F32,
            threads: 1,
            step_rows: 64,
            block_size: 32,
            num_blocks: 4,
            neighbours: 0,
            max_tokens: 6,
            max_model_len: 64,
        }
    }
}

/// What came of a run.
struct Traced {
    trace: Trace,
    /// How often the observed sequence began from position 0.
    beginnings: usize,
}

/// The trace of [`PROMPT`] with `model`'s file.
fn trace(model: &TestModel) -> Trace {
    run(model.build(), &model.weight_type.to_string(), Run::alone()).trace
}

fn run(bytes: Vec<u8>, weights: &str, run: Run) -> Traced {
    run_prompt(bytes, weights, &PROMPT, run)
}

fn run_prompt(bytes: Vec<u8>, weights: &str, prompt: &[TokenId], run: Run) -> Traced {
    let circumstances = Circumstances {
        isa: run.isa,
        threads: run.threads,
        max_rows: run.step_rows,
        max_logits_rows: (run.neighbours + 1).min(run.step_rows),
        num_blocks: run.num_blocks,
        block_size: run.block_size,
    };
    let built = load(bytes, run.kv_type, circumstances);
    let described =
        describe::Circumstances { weights, kv_type: run.kv_type.to_string(), isa: run.isa.name().into(), prompt };
    let description = describe::describe(&built.model, described);
    let scheduler = SchedulerConfig {
        max_num_seqs: run.neighbours as u32 + 1,
        max_num_batched_tokens: run.step_rows as u32,
        num_blocks: run.num_blocks as u32,
        block_size: run.block_size as u32,
        max_model_len: run.max_model_len,
    };
    let vocab_size = built.model.vocab_size();
    let config = EngineConfig { scheduler, eog_ids: vec![] };
    let mut engine = Engine::new(config, built.model, built.kv_cache, built.pool).expect("the limits are good");
    let observed = SeqId(run.neighbours as u64);
    for id in 0..=observed.0 {
        let neighbour = || (0..3 + id as u32 * 5 % 17).map(|i| (i * 17 + id as u32 * 31) % 290 + 3).collect();
        let prompt: Vec<TokenId> = if id == observed.0 { prompt.into() } else { neighbour() };
        let sequence = NewSequence::new(prompt.into(), greedy(run.max_tokens));
        engine.submit(SeqId(id), sequence).expect("every sequence fits the pool");
    }
    engine.observe(observed, Box::new(Recorder::new(vocab_size)));
    let mut beginnings = 0;
    while engine.has_work() {
        engine.step();
        let place = engine.plan().sequences.iter().position(|scheduled| scheduled.id == observed);
        let batch = engine.batch();
        beginnings += place.is_some_and(|b| batch.positions[batch.query_start_loc[b] as usize] == 0) as usize;
    }
    let observer: Box<dyn Any> = engine.take_observer().expect("it was given");
    let recorder = observer.downcast::<Recorder>().expect("a recorder was given");
    Traced { trace: recorder.finish(description).expect("all of the sequence was observed"), beginnings }
}

fn greedy(max_tokens: u32) -> Arc<SequenceParams> {
    Arc::new(SequenceParams {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stopping: StopParams { max_tokens, ignore_eos: true, ..StopParams::default() },
        logprobs: None,
    })
}

/// Where a tensor of the trace is.
fn at(trace: &Trace, name: Name, layer: Option<usize>) -> usize {
    let found = trace.index.tensors.iter().position(|entry| (entry.name, entry.layer) == (name, layer));
    found.unwrap_or_else(|| panic!("no {name:?} {layer:?}"))
}

fn f32s(trace: &Trace, name: Name, layer: Option<usize>) -> &[f32] {
    match &trace.arrays[at(trace, name, layer)].values {
        Values::F32(values) => values,
        Values::I32(_) => panic!("{name:?} is of i32"),
    }
}

fn f32s_mut(trace: &mut Trace, name: Name, layer: Option<usize>) -> &mut Vec<f32> {
    let at = at(trace, name, layer);
    match &mut trace.arrays[at].values {
        Values::F32(values) => values,
        Values::I32(_) => panic!("{name:?} is of i32"),
    }
}

fn i32s_mut(trace: &mut Trace, name: Name) -> &mut Vec<i32> {
    let at = at(trace, name, None);
    match &mut trace.arrays[at].values {
        Values::I32(values) => values,
        Values::F32(_) => panic!("{name:?} is of f32"),
    }
}
