//! LAW-1: the bits of a sequence's logits depend on the model, its own tokens and the ISA path, and on nothing else.
//!
//! One ledger a model holds the logits after every token prefix. Runs of many shapes fill it and are compared with it:
//! who shares the batch, how many threads, how prompts are cut into chunks, preemption, block size, prefixes from the
//! cache, siblings.

use crate::support::isas;
use crate::support::recording_model::{Ledger, RecordingModel};
use crate::support::run_model::{Circumstances, Subject, TinyModel};
use llorch_cpud::engine::request::NewSequence;
use llorch_cpud::engine::{Engine, EngineConfig};
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kernels::{Isa, Path};
use llorch_cpud::kv_cache::KvType;
use llorch_cpud::model::decoder::Decoder;
use llorch_cpud::quant::WeightType;
use llorch_cpud::sampling::params::{SamplingParams, SequenceParams, StopParams};
use llorch_cpud::scheduler::SchedulerConfig;
use llorch_cpud::types::{CacheDomain, SeqId, TokenId};
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
    let mut engine = engine(subject, isa, run, ledger);
    let params = Arc::new(SequenceParams {
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stopping: StopParams { max_tokens: run.max_tokens, ..StopParams::default() },
        logprobs: None,
    });
    for index in first..first + run.batch {
        let sequence = NewSequence::new(prompt(index).into(), Arc::clone(&params));
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

/// An engine whose model compares with `ledger` what it computes.
fn engine(subject: &Subject, isa: Isa, run: Run, ledger: &Arc<Mutex<Ledger>>) -> Engine<RecordingModel<Decoder>> {
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
    Engine::new(config, model, built.kv_cache, built.pool).expect("the limits are good")
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
    ];
    let tight = Run { batch: 8, step_rows: 16, block_size: 2, num_blocks: 24, max_tokens: 12, ..WIDE };
    for isa in isas() {
        for arch in TestModel::ARCHITECTURES.into_iter().chain(TestModel::VARIANTS) {
            for (weight_type, kv_type) in [(WeightType::F32, KvType::F32), (WeightType::Q8_0, KvType::F16)] {
                let subject = Subject::architecture(arch, weight_type, kv_type);
                check(&subject, isa, &runs);
                let ledger = solo_ledger(&subject, isa, tight.batch, tight.max_tokens);
                assert!(run(&subject, isa, 0, tight, &ledger) > 0, "{arch}: the pool was meant to be too small");
                assert_eq!(ledger.lock().unwrap().difference, None, "{arch} {weight_type} on {}", isa.name());
            }
        }
    }
}

/// What the prefix cache and the forks did in a run.
#[derive(Clone, Copy, Debug, Default)]
struct Shared {
    hit_tokens: u32,
    copies: u32,
    preempted: u32,
    evicted: u64,
}

/// Three turns of `run.batch` conversations with a common beginning, with 1 to 3 siblings each; the first turn comes
/// twice. With a domain the siblings are forks and prefixes come from the cache; without, each is a sequence of its
/// own.
fn converse(engine: &mut Engine<RecordingModel<Decoder>>, run: Run, domain: Option<CacheDomain>) -> Shared {
    let params = Arc::new(SequenceParams {
        sampling: SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::default() },
        stopping: StopParams { max_tokens: run.max_tokens, ..StopParams::default() },
        logprobs: None,
    });
    let begin = |index| [(100..111).collect(), prompt(index)].concat();
    let mut texts: Vec<Vec<TokenId>> = (0..run.batch).map(begin).collect();
    let mut shared = Shared::default();
    for turn in 0..3u64 {
        let mut generated = vec![Vec::new(); texts.len()];
        for (index, text) in texts.iter().enumerate() {
            let (n, first) = (1 + index as u32 % 3, SeqId(turn * 1000 + index as u64 * 3));
            let new = NewSequence { domain, ..NewSequence::new(text.clone().into(), Arc::clone(&params)) };
            if domain.is_some() {
                engine.submit(first, NewSequence { n, ..new }).expect("it fits");
            } else {
                for index in 0..n {
                    engine
                        .submit(SeqId(first.0 + u64::from(index)), NewSequence { index, ..new.clone() })
                        .expect("it fits");
                }
            }
        }
        while engine.has_work() {
            let report = engine.step();
            shared.hit_tokens += report.hit_tokens;
            shared.copies += report.num_copies;
            shared.preempted += report.num_preempted;
            for output in &report.outputs {
                let (sampled, _) = output.result.as_ref().expect("logits are finite");
                if output.id.0 % 1000 % 3 == 0 {
                    generated[(output.id.0 % 1000 / 3) as usize].push(sampled.token);
                }
            }
        }
        if turn > 0 {
            for (text, new) in texts.iter_mut().zip(generated) {
                text.extend(new.into_iter().chain([turn as TokenId, 50, 51]));
            }
        }
    }
    shared.evicted = engine.scheduler().pool().num_evicted();
    shared
}

#[test]
fn law_1_prefix_hits_and_siblings() {
    covers!("LAW-1", "SCH-17", "SCH-15");
    let domain = Some(CacheDomain::new("model", "tenant", "salt"));
    for isa in isas() {
        for weight_type in TYPES {
            for kv_type in KvType::ALL {
                let tiny = Subject::tiny(&TinyModel { weight_type, kv_type, ..TinyModel::default() });
                let wide = Run { batch: 8, threads: 2, step_rows: 64, block_size: 4, num_blocks: 512, max_tokens: 8 };
                let ledger = Arc::new(Mutex::new(Ledger::default()));
                let alone = Run { threads: 1, ..wide };
                let none = converse(&mut engine(&tiny, isa, alone, &ledger), alone, None);
                assert_eq!((none.hit_tokens, none.copies), (0, 0));
                let before = ledger.lock().unwrap().compared;
                // Few blocks, so that cached ones are evicted and running ones preempted.
                let tight = Run { num_blocks: 20, step_rows: 19, threads: 3, ..wide };
                for run in [wide, tight, Run { block_size: 3, num_blocks: 24, ..tight }] {
                    let shared = converse(&mut engine(&tiny, isa, run, &ledger), run, domain);
                    assert!(shared.hit_tokens > 200 && shared.copies > 5, "{shared:?} {run:?}");
                    let is_tight = run.num_blocks < 100;
                    assert_eq!((shared.evicted > 0, shared.preempted > 0), (is_tight, is_tight), "{shared:?} {run:?}");
                    let ledger = ledger.lock().unwrap();
                    assert_eq!(ledger.difference, None, "{} {} {run:?}", isa.name(), tiny.name);
                }
                // Each conversation of three turns samples at least so many rows.
                let compared = ledger.lock().unwrap().compared - before;
                assert!(compared >= 3 * 3 * wide.batch * wide.max_tokens as usize, "{compared} rows compared");
            }
        }
    }
}
