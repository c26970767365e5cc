//! A decode step against the number of sequences: one forward pass of a synthetic model, and where it takes steps.
//!
//! `cargo bench --bench decode_step` runs all; `-- /1024/` one context length. `LLORCH_BENCH_TYPE` chooses the weights
//! (default q8_0), `LLORCH_BENCH_ISA` a path, `LLORCH_BENCH_THREADS` the number of threads (default 2),
//! `LLORCH_BENCH_CONTEXTS` and `LLORCH_BENCH_SEQUENCES` lists of other contexts and batch sizes. Names are
//! `decode_step/<type>/<path>/<context>/<sequences>`; elements per second are tokens per second. Scheduler and sampling
//! are not in it: `bench engine` has them.
//!
//! The model has the layers of TinyLlama-1.1B, four of them, built in memory from a seed: its weights exceed the
//! caches, and so do K and V of many sequences at 1024 tokens. Every iteration computes the same step again: it writes
//! K and V of the last position to the same place.
//!
//! How to read it. Kernels take rows in tiles, and the batch sizes stand on both sides of likely tile borders (4, 8,
//! 12, 16, 32). A sequence may cost its share and not more: the time of m + 1 sequences is at most (m + 1) / m times
//! that of m, in other words *tokens per second never fall from a line to the next*. Where they fall beyond the noise
//! between 4 and 5, 8 and 9, 16 and 17 or 32 and 33, the rows that were left over went through the weights once more,
//! or were padded to a whole tile. While weights come from memory, time is nearly constant and tokens per second
//! double with the batch; where that ends, arithmetic begins to bind. At 1024 tokens the same holds with the K and V
//! of each sequence on top, which no batch shares: compare the difference between the two contexts.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::test_model::TestModel;
use llorch_cpud::kernels::Isa;
use llorch_cpud::kv_cache::{KvCache, KvShape, KvType};
use llorch_cpud::model::config::ModelConfig;
use llorch_cpud::model::decoder::Decoder;
use llorch_cpud::model::weights::Weights;
use llorch_cpud::model::{ForwardBatch, Model};
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::quant::WeightType;
use llorch_cpud::types::{BlockId, Slot};

const BATCHES: &str = "1,2,3,4,5,7,8,9,13,16,17,32,33";
const CONTEXTS: &str = "128,1024";
const BLOCK_SIZE: usize = 32;
const VOCAB: usize = 8192;
/// Rows of a step that fills the cache.
const FILL_ROWS: usize = 512;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A list of sizes.
fn sizes(name: &str, default: &str) -> Vec<usize> {
    let list = setting(name, default.to_owned());
    list.split(',').map(|size| size.parse().unwrap_or_else(|_| panic!("{name}: {size:?} is no number"))).collect()
}

fn weight_type() -> WeightType {
    let name = setting("LLORCH_BENCH_TYPE", "q8_0".to_owned()).to_lowercase();
    let known = WeightType::ALL.into_iter().find(|ty| ty.to_string().to_lowercase() == name);
    known.expect("LLORCH_BENCH_TYPE names a weight type")
}

/// A model and the cache of its sequences. Sequence `s` owns the blocks from `s * blocks` on.
struct Bench {
    sequences: usize,
    /// Of a sequence: room for the longest context and the token of the step.
    blocks: usize,
    model: Decoder,
    kv_cache: KvCache,
    /// Positions of every sequence whose K and V are there.
    filled: usize,
    batch: ForwardBatch,
}

impl Bench {
    fn new(ty: WeightType, isa: Isa, pool: &Arc<Pool>, sequences: usize, context: usize) -> Self {
        let blocks = context / BLOCK_SIZE + 1;
        let spec = TestModel {
            hidden: 2048,
            ffn: 5632,
            layers: 4,
            heads: 32,
            kv_heads: 4,
            head_dim: 64,
            vocab: VOCAB,
            context: blocks * BLOCK_SIZE,
            tied: true,
            weight_type: ty,
            ..TestModel::default()
        };
        let file = ModelFile::from_bytes(spec.build()).expect("a valid model");
        let config = ModelConfig::from_metadata(file.metadata()).expect("valid keys");
        let weights = Weights::load(&file, &config, &mut |_| {}).expect("valid tensors");
        let shape = KvShape {
            layers: config.num_layers,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            block_size: BLOCK_SIZE,
            kv_type: KvType::F16,
        };
        let kv_cache = KvCache::new(shape, sequences * blocks).expect("the cache fits");
        let model = Decoder::new(config, weights, Arc::clone(pool), isa, FILL_ROWS, sequences);
        Self { sequences, blocks, model, kv_cache, filled: 0, batch: ForwardBatch::default() }
    }

    /// Adds rows of one sequence to the batch.
    fn push(&mut self, sequence: usize, positions: std::ops::Range<usize>) {
        let batch = &mut self.batch;
        let (first_block, end) = (sequence * self.blocks, positions.end);
        for position in positions {
            batch.token_ids.push(((position * 7919 + sequence * 104_729) % VOCAB) as u32);
            batch.positions.push(position as u32);
            batch.slot_mapping.push(Slot((first_block * BLOCK_SIZE + position) as u32));
        }
        let blocks = first_block..first_block + end.div_ceil(BLOCK_SIZE);
        batch.block_tables.extend(blocks.map(|block| BlockId(block as u32)));
        batch.block_table_start.push(batch.block_tables.len() as u32);
        batch.query_start_loc.push(batch.token_ids.len() as u32);
        batch.seq_lens.push(end as u32);
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.batch.block_table_start.push(0);
        self.batch.query_start_loc.push(0);
    }

    /// Computes K and V of all sequences up to `context`.
    fn fill(&mut self, context: usize) {
        for sequence in 0..self.sequences {
            for start in (self.filled..context).step_by(FILL_ROWS) {
                self.clear();
                self.push(sequence, start..(start + FILL_ROWS).min(context));
                self.model.forward(&self.batch, &mut self.kv_cache);
            }
        }
        self.filled = self.filled.max(context);
    }

    /// Makes the batch of a step: one row, and its logits, for each of `sequences`.
    fn prepare(&mut self, sequences: usize, context: usize) {
        self.clear();
        (0..sequences).for_each(|sequence| self.push(sequence, context..context + 1));
        self.batch.logits_rows.extend(0..sequences as u32);
    }
}

fn decode_step(c: &mut Criterion) {
    let (ty, isa) = (weight_type(), setting("LLORCH_BENCH_ISA", Isa::detect()));
    let pool = Arc::new(Pool::new(setting("LLORCH_BENCH_THREADS", 2)).expect("a pool"));
    let contexts = sizes("LLORCH_BENCH_CONTEXTS", CONTEXTS);
    let batches = sizes("LLORCH_BENCH_SEQUENCES", BATCHES);
    let most = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or(1);
    let mut bench = Bench::new(ty, isa, &pool, most(&batches), most(&contexts));
    let _awake = pool.begin_step();
    for context in contexts {
        let mut group = c.benchmark_group(format!("decode_step/{ty}/{isa:?}/{context}").to_lowercase());
        group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        for &sequences in &batches {
            group.throughput(Throughput::Elements(sequences as u64));
            group.bench_function(BenchmarkId::from_parameter(sequences), |b| {
                // Here, so that what no filter selects costs nothing.
                bench.fill(context);
                bench.prepare(sequences, context);
                b.iter(|| black_box(bench.model.forward(&bench.batch, &mut bench.kv_cache))[0]);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, decode_step);
criterion_main!(benches);
