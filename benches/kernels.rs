//! The matmul kernels: arithmetic and bytes per second by weight type, rows and batch.
//!
//! `cargo bench --bench kernels` runs all; `-- q8_0/2048` a part. `LLORCH_BENCH_ISA` forces a path,
//! `LLORCH_BENCH_THREADS` the number of threads (default 2). Weights come from memory: each iteration takes the next of
//! several matrices that together exceed the caches. `memory/read` is what this machine can stream, measured in the
//! same process. Elements per second are operations, two for each multiply-add.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llorch_cpud::kernels::Isa;
use llorch_cpud::ops::Ctx;
use llorch_cpud::ops::activations::Activations;
use llorch_cpud::ops::matmul::matmul;
use llorch_cpud::ops::packed_matrix::PackedMatrix;
use llorch_cpud::ops::pool::Pool;
use llorch_cpud::quant::WeightType;

const K: usize = 2048;
/// More than the last-level cache of common machines.
const WORKING_SET: usize = 160 << 20;

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

fn bench_matmul(c: &mut Criterion) {
    let isa = setting("LLORCH_BENCH_ISA", Isa::detect());
    let pool = Pool::new(setting("LLORCH_BENCH_THREADS", 2)).expect("a pool");
    let _awake = pool.begin_step();
    let ctx = Ctx { pool: &pool, isa };
    for ty in WeightType::ALL {
        for n in [2048, 5632] {
            let raw = tensor(ty, n, K);
            let matrices: Vec<_> = (0..WORKING_SET.div_ceil(raw.len()))
                .map(|_| PackedMatrix::pack(ty, n, K, &raw).expect("a matrix"))
                .collect();
            let mut group = c.benchmark_group(format!("{ty}/{n}/{isa:?}").to_lowercase());
            for m in [1, 4, 16, 32, 128] {
                let x: Vec<f32> = (0..m * K).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
                let mut activations = Activations::new(m, K);
                let mut out = vec![0.0; m * n];
                let mut next = matrices.iter().cycle();
                group.throughput(Throughput::ElementsAndBytes {
                    elements: (2 * m * n * K) as u64,
                    bytes: matrices[0].bytes() as u64,
                });
                group.bench_function(BenchmarkId::from_parameter(m), |b| {
                    b.iter(|| {
                        activations.prepare(&ctx, &x, m, K, ty);
                        let weights = next.next().expect("a cycle");
                        matmul(&ctx, weights, &activations, black_box(&mut out));
                    });
                });
            }
            group.finish();
        }
    }
}

fn bench_memory(c: &mut Criterion) {
    let pool = Pool::new(setting("LLORCH_BENCH_THREADS", 2)).expect("a pool");
    let _awake = pool.begin_step();
    let mut data = vec![1u64; WORKING_SET / 8];
    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Bytes(WORKING_SET as u64));
    group.bench_function("read", |b| {
        b.iter(|| {
            pool.run_chunks(&mut data, 1 << 15, |_, chunk| {
                // Eight sums: enough loads in flight.
                let mut sums = [0u64; 8];
                for words in chunk.chunks_exact(8) {
                    sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
                }
                black_box(sums);
            });
        });
    });
    group.finish();
}

criterion_group!(kernels, bench_memory, bench_matmul);
criterion_main!(kernels);
