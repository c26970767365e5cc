//! Attention over the paged cache: arithmetic and bytes of K and V per second.
//!
//! `cargo bench --bench attention` runs all; `-- decode/f16` a part. `LLORCH_BENCH_ISA` forces a path,
//! `LLORCH_BENCH_THREADS` the number of threads (default 2). K and V come from memory: each iteration takes the next of
//! several layers that together exceed the caches. `ceiling/read` and `ceiling/fma` are what this machine can stream
//! and compute, measured in the same process. Elements per second are operations, two for each multiply-add of
//! `q K^T` and `p V`; bytes are K and V as stored, each counted once a sequence.
//!
//! Names: `decode/TYPE/HEADSxHEAD_DIM/gGROUP/SEQUENCESxCONTEXT`, `prefill/…/ROWS@FIRST_POSITION`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llorch_cpud::kernels::Isa;
use llorch_cpud::kernels::lanes::{self, LANES, LaneOp, Lanes};
use llorch_cpud::kernels::peak;
use llorch_cpud::kv_cache::{KvCache, KvShape, KvType, LayerKv};
use llorch_cpud::ops::Ctx;
use llorch_cpud::ops::attention::{AttentionSpec, paged_attention, write_kv};
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::types::{BlockId, ForwardBatch, Slot};

/// More than the last-level cache of common machines.
const WORKING_SET: usize = 160 << 20;
const BLOCK_SIZE: usize = 32;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers in -1 .. 1 from a fixed generator.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// What attends to what: `sequences` of `context` positions each, the last `rows` of which are computed.
#[derive(Clone, Copy)]
struct Case {
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    sequences: usize,
    context: usize,
    rows: usize,
}

const TINY_LLAMA: Case = Case { kv_heads: 4, group: 8, head_dim: 64, sequences: 1, context: 2048, rows: 1 };
const LLAMA_3_8B: Case = Case { kv_heads: 8, group: 4, head_dim: 128, ..TINY_LLAMA };
const LLAMA_2_7B: Case = Case { kv_heads: 32, group: 1, head_dim: 128, ..TINY_LLAMA };
const GROUP_4: Case = Case { kv_heads: 8, group: 4, ..TINY_LLAMA };
const GROUP_1: Case = Case { kv_heads: 32, group: 1, ..TINY_LLAMA };

impl Case {
    fn blocks(&self) -> usize {
        self.context.div_ceil(BLOCK_SIZE)
    }

    /// The step that computes `rows` rows before `context` of each sequence; blocks of the sequences take turns.
    fn batch(&self, rows: std::ops::Range<usize>) -> ForwardBatch {
        let mut batch = ForwardBatch { query_start_loc: vec![0], block_table_start: vec![0], ..Default::default() };
        for sequence in 0..self.sequences {
            let block = |i: usize| i * self.sequences + sequence;
            for position in rows.clone() {
                let slot = block(position / BLOCK_SIZE) * BLOCK_SIZE + position % BLOCK_SIZE;
                batch.slot_mapping.push(Slot(slot as u32));
                batch.positions.push(position as u32);
                batch.token_ids.push(0);
            }
            batch.query_start_loc.push(batch.positions.len() as u32);
            batch.seq_lens.push(rows.end as u32);
            batch.block_tables.extend((0..rows.end.div_ceil(BLOCK_SIZE)).map(|i| BlockId(block(i) as u32)));
            batch.block_table_start.push(batch.block_tables.len() as u32);
        }
        batch
    }

    fn shape(&self, kv_type: KvType) -> KvShape {
        let Self { kv_heads, head_dim, .. } = *self;
        KvShape { layers: 1, kv_heads, head_dim, block_size: BLOCK_SIZE, kv_type }
    }

    /// Bytes of K and V of all sequences in one layer.
    fn layer_bytes(&self, kv_type: KvType) -> usize {
        self.shape(kv_type).block_bytes().expect("a shape") as usize * self.blocks() * self.sequences
    }

    /// A cache of enough layers to exceed [`WORKING_SET`], filled.
    fn cache(&self, ctx: &Ctx<'_>, kv_type: KvType) -> KvCache {
        let layers = WORKING_SET.div_ceil(self.layer_bytes(kv_type));
        let shape = KvShape { layers, ..self.shape(kv_type) };
        let mut cache = KvCache::new(shape, self.blocks() * self.sequences).expect("a cache");
        let x = numbers(self.kv_len(BLOCK_SIZE) + 1);
        let (k, v) = (&x[1..], &x[..x.len() - 1]);
        for first in (0..self.context).step_by(BLOCK_SIZE) {
            let batch = self.batch(first..first + BLOCK_SIZE);
            (0..layers).for_each(|layer| write_kv(ctx, &mut cache, layer, k, v, &batch));
        }
        cache
    }

    fn kv_len(&self, rows: usize) -> usize {
        rows * self.sequences * self.kv_heads * self.head_dim
    }

    fn throughput(&self, kv_type: KvType) -> Throughput {
        // Row r of the last `rows` attends to context - rows + 1 + r positions.
        let pairs = self.rows * (self.context - self.rows) + self.rows * (self.rows + 1) / 2;
        let heads = self.kv_heads * self.group;
        Throughput::ElementsAndBytes {
            elements: (4 * self.sequences * heads * self.head_dim * pairs) as u64,
            bytes: self.layer_bytes(kv_type) as u64,
        }
    }

    fn name(&self, kv_type: KvType) -> String {
        let Self { kv_heads, group, head_dim, sequences, context, rows } = *self;
        let (what, load) = match rows {
            1 => ("decode", format!("{sequences}x{context}")),
            _ => ("prefill", format!("{rows}@{}", context - rows)),
        };
        format!("{what}/{kv_type}/{}x{head_dim}/g{group}/{load}", kv_heads * group)
    }
}

fn bench_case(c: &mut Criterion, ctx: &Ctx<'_>, case: Case, kv_type: KvType) {
    let mut group = c.benchmark_group("attention");
    group.throughput(case.throughput(kv_type));
    let batch = case.batch(case.context - case.rows..case.context);
    let q = numbers(case.kv_len(case.rows) * case.group);
    let mut out = vec![0.0; q.len()];
    let spec = AttentionSpec { scale: 1.0 / (case.head_dim as f32).sqrt(), window: None, soft_cap: None };
    let mut cache = None;
    let mut layer = 0;
    // The cache is made only where the filter lets the benchmark run.
    group.bench_function(case.name(kv_type), |b| {
        let cache = cache.get_or_insert_with(|| case.cache(ctx, kv_type));
        b.iter(|| {
            layer = (layer + 1) % cache.shape().layers;
            paged_attention(ctx, &q, cache, layer, &batch, spec, black_box(&mut out));
        });
    });
    group.finish();
}

/// Storing the K and V of a step: bytes are those stored.
fn bench_write(c: &mut Criterion, ctx: &Ctx<'_>, case: Case, kv_type: KvType) {
    let mut group = c.benchmark_group("write");
    group.throughput(Throughput::Bytes((case.layer_bytes(kv_type) / case.context * case.rows) as u64));
    let batch = case.batch(case.context - case.rows..case.context);
    let x = numbers(case.kv_len(case.rows));
    let mut cache = None;
    let mut layer = 0;
    group.bench_function(case.name(kv_type), |b| {
        let cache = cache.get_or_insert_with(|| case.cache(ctx, kv_type));
        b.iter(|| {
            layer = (layer + 1) % cache.shape().layers;
            write_kv(ctx, cache, layer, &x, &x, black_box(&batch));
        });
    });
    group.finish();
}

/// Sixteen chains of fused multiply-adds.
struct Fma(usize);

impl LaneOp for Fma {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [f32; LANES] {
        let mut sums = [l.splat(0.0); 16];
        let (a, b) = (l.splat(black_box(1e-3)), l.splat(black_box(0.5)));
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = l.fma(a, b, *sum);
            }
        }
        let mut out = [0.0; LANES];
        let total = sums.into_iter().reduce(|x, y| l.add(x, y));
        l.store(total.unwrap_or(a), &mut out);
        out
    }
}

fn bench_ceilings(c: &mut Criterion, ctx: &Ctx<'_>) {
    // In the cache's own memory, as its pages matter.
    let case = Case { context: WORKING_SET / TINY_LLAMA.layer_bytes(KvType::F32) * TINY_LLAMA.context, ..TINY_LLAMA };
    let cache = KvCache::new(case.shape(KvType::F32), case.blocks()).expect("a cache");
    let LayerKv::F32(data) = cache.layer(0) else { unreachable!("an f32 cache") };
    let mut group = c.benchmark_group("ceiling");
    group.throughput(Throughput::Bytes(cache.bytes()));
    group.bench_function("read", |b| {
        b.iter(|| {
            const PART: usize = 1 << 16;
            ctx.pool.run(data.len() / PART, &|i| {
                black_box(peak::read(ctx.isa, data[i * PART..(i + 1) * PART].as_chunks().0));
            });
        });
    });
    const UNITS: usize = 8;
    const STEPS: usize = 10_000;
    group.throughput(Throughput::Elements((2 * UNITS * STEPS * 16 * LANES) as u64));
    group.bench_function("fma", |b| {
        b.iter(|| {
            ctx.pool.run(UNITS, &|_| {
                black_box(lanes::run(ctx.isa, Fma(STEPS)));
            })
        });
    });
    group.finish();
}

fn bench_attention(c: &mut Criterion) {
    let pool = Pool::new(setting("LLORCH_BENCH_THREADS", 2)).expect("a pool");
    let _awake = pool.begin_step();
    let ctx = &Ctx { pool: &pool, isa: setting("LLORCH_BENCH_ISA", Isa::detect()) };
    bench_ceilings(c, ctx);
    for kv_type in KvType::ALL {
        for case in [TINY_LLAMA, GROUP_4, GROUP_1, LLAMA_3_8B, LLAMA_2_7B] {
            for (sequences, context) in [(1, 2048), (1, 4096), (16, 2048), (16, 4096)] {
                bench_case(c, ctx, Case { sequences, context, ..case }, kv_type);
            }
        }
        for case in [TINY_LLAMA, LLAMA_3_8B, LLAMA_2_7B] {
            for (rows, context) in [(128, 128), (128, 2048), (512, 512), (512, 2048)] {
                bench_case(c, ctx, Case { rows, context, ..case }, kv_type);
            }
        }
        for (sequences, rows) in [(1, 1), (16, 1), (1, 512)] {
            bench_write(c, ctx, Case { sequences, rows, ..TINY_LLAMA }, kv_type);
        }
    }
}

criterion_group! {
    name = attention;
    // Many cases, each steady: short runs suffice.
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = bench_attention
}
criterion_main!(attention);
