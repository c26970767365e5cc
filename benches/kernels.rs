//! The matmul kernels beside this machine's ceilings: arithmetic and bytes per second by weight type, shape and batch.
//!
//! `cargo bench --bench kernels` runs all; `-- q8_0/2048` a part. `LLORCH_BENCH_ISA` forces a path,
//! `LLORCH_BENCH_THREADS` the number of threads (default 2), `LLORCH_BENCH_ROWS` the batches (default 1,4,16,32,128).
//! Weights come from memory: each iteration takes the next of several matrices that together exceed the caches.
//! Elements per second are operations, two for each multiply-add.
//!
//! Behind each result stands which part of the ceilings it reached: of the multiply-adds of the type's instruction
//! (`kernels::peak`) and of the bytes that these threads can read. Both are measured right before, in the same process,
//! as the speed of a shared machine drifts.

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llorch_cpud::kernels::Isa;
use llorch_cpud::kernels::lanes::LANES;
use llorch_cpud::kernels::panel::Form;
use llorch_cpud::kernels::peak::{self, Unit};
use llorch_cpud::ops::Ctx;
use llorch_cpud::ops::activations::Activations;
use llorch_cpud::ops::matmul::matmul;
use llorch_cpud::ops::packed_matrix::PackedMatrix;
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::quant::WeightType;

/// Elements of a row: the widths of a 1.1B model.
const SHAPES: [(usize, usize); 2] = [(5632, 2048), (2048, 5632)];
/// More than the last-level cache of today's server parts, of which some have half a gigabyte.
const WORKING_SET: usize = 1 << 30;
/// Vectors that a thread reads in a row when the bandwidth is measured: 256 KB.
const READ_CHUNK: usize = 4096;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Rows of weights near 1, from a fixed generator.
fn tensor(ty: WeightType, n: usize, k: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut raw = Vec::new();
    for _ in 0..n * k / ty.block_len() {
        match ty {
            WeightType::F32 => raw.extend((f32::from(byte()) / 256.0 - 0.5).to_le_bytes()),
            // 2^-5 to 2^-2, both signs, in either 16-bit format.
            WeightType::F16 => raw.extend([byte(), 0x28 | (byte() & 0x87)]),
            WeightType::BF16 => raw.extend([byte(), 0x3e | (byte() & 0x80)]),
            _ => raw.extend(block(ty, &mut byte)),
        }
    }
    raw
}

/// A block of random codes whose f16 scales are about 2^-7.
fn block(ty: WeightType, byte: &mut impl FnMut() -> u8) -> Vec<u8> {
    let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| byte()).collect();
    let scales: &[usize] = match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => &[],
        WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 | WeightType::IQ4NL | WeightType::IQ4XS => &[0],
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => &[0, 2],
        WeightType::MXFP4 => {
            block[0] = 120;
            &[]
        }
        WeightType::Q2K => &[80, 82],
        WeightType::Q3K => &[108],
        WeightType::Q6K => &[208],
    };
    scales.iter().for_each(|at| block[at + 1] = 0x20);
    block
}

fn rows() -> Vec<usize> {
    let list = setting("LLORCH_BENCH_ROWS", "1,4,16,32,128".to_owned());
    list.split(',').map(|rows| rows.parse().expect("LLORCH_BENCH_ROWS: numbers")).collect()
}

/// What the pool's threads can do at most, per second.
struct Ceilings {
    operations: f64,
    bytes: f64,
}

impl Ceilings {
    fn measure(ctx: &Ctx<'_>, ty: WeightType, memory: &mut [[f32; LANES]]) -> Self {
        let unit = match Form::of(ctx.isa, ty) {
            Form::Float => Unit::F32,
            Form::Pairs => Unit::Bf16,
            Form::Blocks32 | Form::Blocks256 => Unit::Int8,
        };
        let operations = best_rate(|| {
            let threads = ctx.pool.threads();
            let done = std::sync::atomic::AtomicU64::new(0);
            ctx.pool.run(threads, &|_| {
                let operations = peak::run(ctx.isa, unit, 300_000).unwrap_or(0);
                done.fetch_add(operations, std::sync::atomic::Ordering::Relaxed);
            });
            done.into_inner() as f64
        });
        let bytes = best_rate(|| {
            ctx.pool.run_chunks(memory, READ_CHUNK, |_, chunk| {
                black_box(peak::read(ctx.isa, chunk));
            });
            size_of_val(memory) as f64
        });
        Self { operations, bytes }
    }
}

/// The best rate of a few runs.
fn best_rate(mut run: impl FnMut() -> f64) -> f64 {
    let rate = |_| {
        let started = Instant::now();
        let amount = run();
        amount / started.elapsed().as_secs_f64()
    };
    (0..5).map(rate).fold(0.0, f64::max)
}

fn bench_matmul(c: &mut Criterion) {
    let isa = setting("LLORCH_BENCH_ISA", Isa::detect());
    let pool = Pool::new(setting("LLORCH_BENCH_THREADS", 2)).expect("a pool");
    let _awake = pool.begin_step();
    let ctx = Ctx { pool: &pool, isa };
    let mut memory = vec![[1.0; LANES]; WORKING_SET / size_of::<[f32; LANES]>()];
    for ty in WeightType::ALL {
        for (n, k) in SHAPES {
            let raw = tensor(ty, n, k);
            let matrices: Vec<_> = (0..WORKING_SET.div_ceil(raw.len()))
                .map(|_| PackedMatrix::pack(ty, n, k, &raw).expect("a matrix"))
                .collect();
            let mut group = c.benchmark_group(format!("{ty}/{k}/{isa:?}").to_lowercase());
            for m in rows() {
                bench_rows(&mut group, &ctx, m, &matrices, &mut memory);
            }
            group.finish();
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result")]
fn bench_rows(
    group: &mut BenchmarkGroup<'_, WallTime>,
    ctx: &Ctx<'_>,
    m: usize,
    matrices: &[PackedMatrix],
    memory: &mut [[f32; LANES]],
) {
    let (n, k, ty) = (matrices[0].n(), matrices[0].k(), matrices[0].ty());
    let x: Vec<f32> = (0..m * k).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let mut activations = Activations::new(m, k);
    let mut out = vec![0.0; m * n];
    let mut next = matrices.iter().cycle();
    let (operations, bytes) = ((2 * m * n * k) as u64, matrices[0].bytes() as u64);
    let samples = Cell::new((Duration::ZERO, 0));
    let mut ceilings = None;
    group.throughput(Throughput::ElementsAndBytes { elements: operations, bytes });
    group.bench_function(BenchmarkId::from_parameter(m), |b| {
        ceilings.get_or_insert_with(|| Ceilings::measure(ctx, ty, memory));
        b.iter_custom(|iterations| {
            let started = Instant::now();
            for _ in 0..iterations {
                activations.prepare(ctx, &x, m, k, ty);
                matmul(ctx, next.next().expect("a cycle"), &activations, black_box(&mut out));
            }
            let (time, count) = samples.get();
            samples.set((time + started.elapsed(), count + iterations));
            started.elapsed()
        });
    });
    let (time, count) = samples.get();
    if let Some(ceilings) = ceilings.filter(|_| count > 0) {
        let per_second = count as f64 / time.as_secs_f64();
        let share = |amount: u64, ceiling: f64| 100.0 * amount as f64 * per_second / ceiling;
        println!(
            "                        {:.0} % of {:.0} Gop/s, {:.0} % of {:.1} GB/s",
            share(operations, ceilings.operations),
            ceilings.operations / 1e9,
            share(bytes, ceilings.bytes),
            ceilings.bytes / 1e9,
        );
    }
}

criterion_group!(kernels, bench_matmul);
criterion_main!(kernels);
