//! LAW-1: the bits of a sequence's logits depend on the model, its own tokens and the ISA path, and on nothing else.
//!
//! One ledger a model holds the logits after every token prefix. Runs of many shapes fill it and are compared with it:
//! who shares the batch, how many threads, how prompts are cut into chunks, preemption, block size.

use crate::support::isas;
use crate::support::recording_model::{Ledger, RecordingModel};
use crate::support::run_model::{Circumstances, Subject, TinyModel};
use llorch_cpud::engine::request::NewSequence;
use llorch_cpud::engine::{Engine, EngineConfig};
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kernels::{Isa, Path};
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::quant::WeightType;
use llorch_cpud::sampling::params::{SamplingParams, SequenceParams, StopParams};
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{SeqId, TokenId};
use std::sync::{Arc, Mutex};

const MAX_MODEL_LEN: u32 = 64;

/// The circumstances of a run: none of them may reach a logit.
#[derive(Clone, Copy, Debug)]
struct Run {
    batch: usize,
    threads: usize,
    /// Rows of a step: what does not fit is cut into chunks.
    step_rows: usize,
    block_size: usize,
    /// Blocks of the pool; few force preemption.
    num_blocks: usize,
    max_tokens: u32,
}

const WIDE: Run = Run { batch: 64, threads: 2, step_rows: 512, block_size: 32, num_blocks: 256, max_tokens: 4 };

/// Prompt of sequence `index`: 1 to 23 tokens, distinct between sequences.
fn prompt(index: usize) -> Vec<TokenId> {
    let len = 1 + (index * 7) % 23;
    (0..len).map(|i| ((index * 131 + i * 17 + 5) % 290 + 3) as TokenId).collect()
}

/// Runs the sequences `first .. first + batch` together and checks every logits row against `ledger`.
/// Returns the number of preemptions.
fn run(subject: &Subject, isa: Isa, first: usize, run: Run, ledger: &Arc<Mutex<Ledger>>) -> usize {
    let circumstances = Circumstances {
        isa,
        threads: run.threads,
        max_rows: run.step_rows,
        max_logits_rows: run.batch,
        num_blocks: run.num_blocks,
        block_size: run.block_size,
    };
    let built = subject.load(circumstances);
    let model = RecordingModel::new(built.model, Arc::clone(ledger), run.num_blocks, run.block_size);
    let scheduler = SchedulerConfig {
        max_num_seqs: run.batch as u32,
        max_num_batched_tokens: run.step_rows as u32,
        num_blocks: run.num_blocks as u32,
        block_size: run.block_size as u32,
        max_model_len: MAX_MODEL_LEN,
    };
    let config = EngineConfig { scheduler, eog_ids: vec![] };
    let mut engine = Engine::new(config, model, built.kv_cache, built.pool).expect("the limits are good");
    let params = Arc::new(SequenceParams {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stopping: StopParams { max_tokens: run.max_tokens, ..StopParams::default() },
        logprobs: None,
    });
    for index in first..first + run.batch {
        let sequence = NewSequence { prompt: prompt(index).into(), params: Arc::clone(&params), index: 0 };
        engine.submit(SeqId(index as u64), sequence).expect("every sequence fits the pool");
    }
    let (mut finished, mut preempted) = (0, 0);
    while engine.has_work() {
        let report = engine.step();
        preempted += report.num_preempted as usize;
        for output in &report.outputs {
            let (_, finish) = output.result.as_ref().expect("logits are finite");
            finished += usize::from(finish.is_some());
        }
    }
    assert_eq!(finished, run.batch, "{run:?}");
    preempted
}

/// A ledger of what the sequences give alone: one thread, one chunk, an empty machine.
fn solo_ledger(subject: &Subject, isa: Isa, sequences: usize, max_tokens: u32) -> Arc<Mutex<Ledger>> {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let alone = Run { batch: 1, threads: 1, step_rows: 64, block_size: 32, num_blocks: 4, max_tokens };
    for index in 0..sequences {
        run(subject, isa, index, alone, &ledger);
    }
    ledger
}

/// Every run of `runs` agrees with the solo runs, and really met them.
fn check(subject: &Subject, isa: Isa, runs: &[Run]) {
    let sequences = runs.iter().map(|r| r.batch).max().unwrap_or(0);
    let ledger = solo_ledger(subject, isa, sequences, WIDE.max_tokens);
    for shape in runs {
        run(subject, isa, 0, *shape, &ledger);
        let ledger = ledger.lock().unwrap();
        assert_eq!(ledger.difference, None, "{} {} {shape:?}", isa.name(), subject.name);
    }
    let compared = ledger.lock().unwrap().compared;
    let expected: usize = runs.iter().map(|r| r.batch * r.max_tokens as usize).sum();
    assert!(compared >= expected, "{compared} rows compared, {expected} expected");
}

/// The types that every run is made with; [`law_1_every_type_and_mixes`] has the others.
const TYPES: [WeightType; 4] = [WeightType::F32, WeightType::F16, WeightType::BF16, WeightType::Q8_0];

#[test]
fn law_1_batch_sizes_1_to_64() {
    covers!("LAW-1", "ARCH-10");
    for isa in isas() {
        for weight_type in TYPES {
            let tiny = TinyModel { weight_type, kv_type: KvType::F16, ..TinyModel::default() };
            let sizes: Vec<usize> =
                if isa.path() == Path::Scalar { vec![1, 2, 3, 5, 8, 13, 17, 33, 64] } else { (1..=64).collect() };
            let runs: Vec<Run> = sizes.iter().map(|batch| Run { batch: *batch, ..WIDE }).collect();
            check(&Subject::tiny(&tiny), isa, &runs);
        }
    }
}

#[test]
fn law_1_threads_chunks_and_block_sizes() {
    covers!("LAW-1");
    for isa in isas() {
        for weight_type in TYPES {
            for kv_type in KvType::ALL {
                let tiny = TinyModel { weight_type, kv_type, ..TinyModel::default() };
                let mut runs = Vec::new();
                for threads in [1, 2, 3] {
                    runs.push(Run { threads, batch: 16, ..WIDE });
                    for step_rows in [1, 3, 7, 20] {
                        runs.push(Run { threads, step_rows, batch: 5, ..WIDE });
                    }
                    for block_size in [1, 2, 5, 16, 64] {
                        runs.push(Run { threads, block_size, batch: 8, num_blocks: 512, ..WIDE });
                    }
                }
                check(&Subject::tiny(&tiny), isa, &runs);
            }
        }
    }
}

/// Few runs, as models with super-blocks are wide: the tests of `ops::matmul` have every batch size of every type.
#[test]
fn law_1_every_type_and_mixes() {
    covers!("LAW-1");
    let narrow = Run { batch: 9, ..WIDE };
    let few = [narrow, Run { threads: 3, step_rows: 7, block_size: 5, batch: 5, num_blocks: 512, ..WIDE }];
    let more = [
        Run { batch: 1, ..WIDE },
        Run { batch: 2, threads: 3, ..WIDE },
        Run { batch: 17, ..WIDE },
        Run { batch: 5, threads: 1, step_rows: 3, ..WIDE },
    ];
    let alone = WeightType::ALL.map(|ty| (ty, None));
    // As llama.cpp mixes them, with the types it falls back to, and integers beside floats.
    let mixes = [
        (WeightType::Q4K, Some(WeightType::Q6K)),
        (WeightType::Q3K, Some(WeightType::Q5K)),
        (WeightType::Q4K, Some(WeightType::Q5_0)),
        (WeightType::Q4_0, Some(WeightType::Q8_0)),
        (WeightType::Q6K, Some(WeightType::F16)),
        (WeightType::MXFP4, Some(WeightType::BF16)),
    ];
    for isa in isas() {
        let runs = if isa.path() == Path::Scalar { few.to_vec() } else { [few.as_slice(), &more].concat() };
        for (weight_type, second_type) in alone.into_iter().filter(|(ty, _)| !TYPES.contains(ty)).chain(mixes) {
            let tiny = TinyModel { weight_type, second_type, kv_type: KvType::F16, ..TinyModel::default() };
            check(&Subject::tiny(&tiny), isa, &runs);
        }
    }
}

#[test]
fn law_1_preemption() {
    covers!("LAW-1");
    for isa in isas() {
        for weight_type in TYPES {
            let tiny = TinyModel { weight_type, kv_type: KvType::F16, ..TinyModel::default() };
            let tight = Run { batch: 16, threads: 2, step_rows: 24, block_size: 2, num_blocks: 40, max_tokens: 24 };
            let subject = Subject::tiny(&tiny);
            let ledger = solo_ledger(&subject, isa, tight.batch, tight.max_tokens);
            let preempted = run(&subject, isa, 0, tight, &ledger);
            assert!(preempted > 0, "the pool was meant to be too small");
            let ledger = ledger.lock().unwrap();
            assert_eq!(ledger.difference, None, "{} {weight_type:?}", isa.name());
            assert!(ledger.compared >= tight.batch * tight.max_tokens as usize);
        }
    }
}

/// Windows, soft caps, norms of heads, experts: what the other architectures have and Llama has not.
#[test]
fn law_1_every_architecture() {
    covers!("LAW-1");
    let runs = [
        Run { batch: 9, ..WIDE },
        Run { batch: 17, threads: 3, ..WIDE },
        Run { batch: 5, threads: 1, step_rows: 3, ..WIDE },
        Run { batch: 5, threads: 3, step_rows: 7, block_size: 5, num_blocks: 512, ..WIDE },
        Run { batch: 8, step_rows: 16, block_size: 2, num_blocks: 70, ..WIDE },
    ];
    for isa in isas() {
        for arch in TestModel::ARCHITECTURES {
            for (weight_type, kv_type) in [(WeightType::F32, KvType::F32), (WeightType::Q8_0, KvType::F16)] {
                check(&Subject::architecture(arch, weight_type, kv_type), isa, &runs);
            }
        }
    }
}
