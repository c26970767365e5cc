use super::*;
use crate::kernels::{Isa, Path};
use crate::kv_cache::{Head, HeadMut, KvType, LayerKvMut, SCALE_BLOCK};
use crate::ops::pool::Pool;
use crate::ops::tests::{TestRng, bits, for_each_ctx};
use crate::types::{BlockId, Slot};
use definition::{as_stored, att_1, reference};
use half::{bf16, f16};

pub(in crate::ops::attention) mod definition;
mod not_finite;
mod scores;
mod windows;

#[derive(Clone, Copy)]
struct Heads {
    kv_heads: usize,
    group: usize,
    head_dim: usize,
}

/// All rows of a sequence: Q `[len, kv_heads * group * head_dim]`, K and V `[len, kv_heads * head_dim]`.
#[derive(Clone)]
struct Sequence {
    len: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn random(rng: &mut TestRng, len: usize, heads: Heads) -> Self {
        let kv_width = heads.kv_heads * heads.head_dim;
        let (q, k, v) = (len * kv_width * heads.group, len * kv_width, len * kv_width);
        Self { len, q: rng.floats(q, 3.0), k: rng.floats(k, 2.0), v: rng.floats(v, 1.0) }
    }
}

/// How a test stores and feeds its sequences.
#[derive(Clone)]
struct Setup {
    heads: Heads,
    kv_type: KvType,
    spec: AttentionSpec,
    block_size: usize,
    /// What the cache holds before anything is written.
    poison: f32,
    /// Steps; each gives the rows that each sequence computes next.
    steps: Vec<Vec<usize>>,
}

impl Setup {
    fn cache(&self, sequences: &[Sequence]) -> (KvCache, Vec<Vec<BlockId>>) {
        let Heads { kv_heads, head_dim, .. } = self.heads;
        let shape = KvShape { layers: 2, kv_heads, head_dim, block_size: self.block_size, kv_type: self.kv_type };
        let needed: usize = sequences.iter().map(|s| s.len.div_ceil(self.block_size)).sum();
        let mut kv = KvCache::new(shape, 2 * needed + 1).unwrap();
        match kv.layer_mut(1) {
            LayerKvMut::F16(x) => x.fill(f16::from_f32(self.poison)),
            LayerKvMut::BF16(x) => x.fill(bf16::from_f32(self.poison)),
            LayerKvMut::F32(x) => x.fill(self.poison),
            LayerKvMut::Q8_0(x) => {
                x.fill(1);
                let head_len = 2 * self.block_size * (head_dim + 2 * head_dim.div_ceil(SCALE_BLOCK));
                for head in x.chunks_exact_mut(head_len) {
                    let head = HeadMut::of(&shape, head);
                    head.k_scales.fill(f16::from_f32(self.poison));
                    head.v_scales.fill(f16::from_f32(self.poison));
                }
            }
        }
        // Descending and with gaps, so that neighbours in a sequence are not neighbours in memory.
        let mut next = 2 * needed as u32;
        let tables = sequences.iter().map(|s| {
            let blocks = (0..s.len.div_ceil(self.block_size)).map(|_| {
                next -= 2;
                BlockId(next + 1)
            });
            blocks.collect()
        });
        let tables = tables.collect();
        (kv, tables)
    }

    /// The outputs of all rows of each sequence.
    fn run(&self, ctx: &Ctx<'_>, sequences: &[Sequence]) -> Vec<Vec<f32>> {
        self.run_observed(ctx, sequences, |_, _, _| {})
    }

    /// As [`Self::run`]; `observe` gets each step's batch, cache and Q.
    fn run_observed(
        &self,
        ctx: &Ctx<'_>,
        sequences: &[Sequence],
        mut observe: impl FnMut(&ForwardBatch, &KvCache, &[f32]),
    ) -> Vec<Vec<f32>> {
        let Heads { kv_heads, group, head_dim } = self.heads;
        let (kv_width, width) = (kv_heads * head_dim, kv_heads * group * head_dim);
        let (mut kv, tables) = self.cache(sequences);
        let mut outs = vec![Vec::new(); sequences.len()];
        let mut done = vec![0; sequences.len()];
        for step in &self.steps {
            let mut batch = ForwardBatch { query_start_loc: vec![0], block_table_start: vec![0], ..Default::default() };
            let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
            for (i, &rows) in step.iter().enumerate().filter(|(_, rows)| **rows > 0) {
                let range = done[i]..done[i] + rows;
                for position in range.clone() {
                    let block = tables[i][position / self.block_size].0 as usize;
                    batch.slot_mapping.push(Slot((block * self.block_size + position % self.block_size) as u32));
                    batch.positions.push(position as u32);
                    batch.token_ids.push(0);
                }
                q.extend(&sequences[i].q[range.start * width..range.end * width]);
                k.extend(&sequences[i].k[range.start * kv_width..range.end * kv_width]);
                v.extend(&sequences[i].v[range.start * kv_width..range.end * kv_width]);
                batch.query_start_loc.push(batch.positions.len() as u32);
                batch.seq_lens.push(range.end as u32);
                batch.block_tables.extend(&tables[i][..range.end.div_ceil(self.block_size)]);
                batch.block_table_start.push(batch.block_tables.len() as u32);
            }
            write_kv(ctx, &mut kv, 1, &k, &v, &batch);
            let mut out = vec![f32::NAN; q.len()];
            paged_attention(ctx, &q, &kv, 1, &batch, self.spec, &mut out);
            observe(&batch, &kv, &q);
            let mut rest = &out[..];
            for (i, &rows) in step.iter().enumerate() {
                let (mine, others) = rest.split_at(rows * width);
                outs[i].extend(mine);
                done[i] += rows;
                rest = others;
            }
        }
        outs
    }
}

fn spec(head_dim: usize) -> AttentionSpec {
    AttentionSpec { scale: 1.0 / (head_dim as f32).sqrt(), window: None, soft_cap: None }
}

fn lens(sequences: &[Sequence]) -> Vec<usize> {
    sequences.iter().map(|s| s.len).collect()
}

/// The setup every other one must agree with: plain Rust on one thread, all rows at once, blocks of 32.
fn baseline(heads: Heads, kv_type: KvType, sequences: &[Sequence]) -> (Setup, Vec<Vec<f32>>) {
    baseline_of(spec(heads.head_dim), heads, kv_type, sequences)
}

fn baseline_of(spec: AttentionSpec, heads: Heads, kv_type: KvType, sequences: &[Sequence]) -> (Setup, Vec<Vec<f32>>) {
    let setup = Setup { heads, kv_type, spec, block_size: 32, poison: f32::NAN, steps: vec![lens(sequences)] };
    let pool = Pool::new(1).unwrap();
    let out = setup.run(&Ctx { pool: &pool, isa: Isa::require(Path::Scalar).unwrap() }, sequences);
    (setup, out)
}

fn assert_same(setup: &Setup, sequences: &[Sequence], expected: &[Vec<f32>]) {
    for_each_ctx(|ctx| {
        // Plain Rust is slow without fused instructions, and threads do not know the path.
        if ctx.isa.path() == Path::Scalar && ctx.pool.threads() != 2 {
            return;
        }
        for (i, (got, want)) in setup.run(ctx, sequences).iter().zip(expected).enumerate() {
            let (got, want) = (bits(got), bits(want));
            assert!(got == want, "sequence {i}, {:?}, {} threads", ctx.isa, ctx.pool.threads());
        }
    });
}

#[test]
fn att_1_attention_matches_the_definition() {
    covers!("ATT-1");
    let mut rng = TestRng::new(6);
    let shapes = [(1, 1, 64), (2, 4, 8), (1, 7, 80), (1, 8, 1), (3, 1, 17), (1, 17, 32), (1, 2, 256)];
    for (kv_heads, group, head_dim) in shapes {
        let heads = Heads { kv_heads, group, head_dim };
        for kv_type in KvType::ALL {
            let sequences = [1, 40, 270].map(|len| Sequence::random(&mut rng, len, heads));
            let (setup, _) = baseline(heads, kv_type, &sequences);
            let pool = Pool::new(2).unwrap();
            let outs = setup.run(&Ctx { pool: &pool, isa: Isa::detect() }, &sequences);
            for (sequence, out) in sequences.iter().zip(outs) {
                for (i, (got, (want, bound))) in
                    out.iter().zip(reference(sequence, heads, kv_type, &setup.spec)).enumerate()
                {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= bound, "{head_dim} {kv_type} element {i}: {got} for {want}, bound {bound:e}");
                }
            }
        }
    }
}

#[test]
fn att_1_the_bits_are_those_of_the_definition() {
    covers!("ATT-1");
    let mut rng = TestRng::new(12);
    let heads = Heads { kv_heads: 2, group: 2, head_dim: 20 };
    let sequence = [Sequence::random(&mut rng, 550, heads)];
    let (_, outs) = baseline(heads, KvType::F32, &sequence);
    let [sequence] = sequence;
    assert_bits_of_the_definition(&sequence, heads, &spec(20), &outs[0]);
}

/// K or V of a KV head at the positions up to `position`, of `all` `[T, kv_heads * head_dim]`.
fn kv_rows(all: &[f32], heads: Heads, position: usize, kv_head: usize) -> Vec<&[f32]> {
    let rows = all.chunks_exact(heads.kv_heads * heads.head_dim).take(position + 1);
    rows.map(|row| &row[kv_head * heads.head_dim..][..heads.head_dim]).collect()
}

/// `out` is what ATT-1 and ATT-5 make of a sequence in an f32 cache.
fn assert_bits_of_the_definition(sequence: &Sequence, heads: Heads, spec: &AttentionSpec, out: &[f32]) {
    let Heads { kv_heads, group, head_dim } = heads;
    for (query, (q, out)) in sequence.q.chunks_exact(head_dim).zip(out.chunks_exact(head_dim)).enumerate() {
        let (position, head) = (query / (kv_heads * group), query % (kv_heads * group));
        let k = kv_rows(&sequence.k, heads, position, head / group);
        let v = kv_rows(&sequence.v, heads, position, head / group);
        assert_eq!(bits(out), bits(&att_1(q, &k, &v, spec)), "position {position} head {head} {spec:?}");
    }
}

#[test]
fn att_2_paths_threads_and_block_sizes_do_not_change_bits() {
    covers!("ATT-2");
    let mut rng = TestRng::new(7);
    for (kv_heads, group, head_dim) in [(1, 4, 64), (1, 7, 80), (2, 8, 8), (1, 3, 17)] {
        let heads = Heads { kv_heads, group, head_dim };
        for kv_type in KvType::ALL {
            let sequences = [33, 1, 263].map(|len| Sequence::random(&mut rng, len, heads));
            let (setup, expected) = baseline(heads, kv_type, &sequences);
            for block_size in [1, 2, 5, 32, 64] {
                assert_same(&Setup { block_size, ..setup.clone() }, &sequences, &expected);
            }
        }
    }
}

#[test]
fn att_2_chunks_and_neighbours_do_not_change_bits() {
    covers!("ATT-2");
    let mut rng = TestRng::new(8);
    let heads = Heads { kv_heads: 2, group: 3, head_dim: 24 };
    let sequences = [300, 35, 70].map(|len| Sequence::random(&mut rng, len, heads));
    let (setup, expected) = baseline(heads, KvType::F16, &sequences);
    // Row by row, the sequences side by side while they last.
    let singles = (0..300).map(|row| lens(&sequences).iter().map(|len| usize::from(row < *len)).collect()).collect();
    // One sequence after the other; uneven pieces, with decode rows of one beside prompt rows of another.
    let in_turn = vec![vec![300, 0, 0], vec![0, 35, 0], vec![0, 0, 70]];
    let mixed = vec![vec![0, 0, 69], vec![255, 3, 1], vec![2, 31, 0], vec![43, 1, 0]];
    for steps in [singles, in_turn, mixed] {
        for block_size in [2, 32] {
            assert_same(&Setup { block_size, steps: steps.clone(), ..setup.clone() }, &sequences, &expected);
        }
    }
    for (i, sequence) in sequences.into_iter().enumerate() {
        let alone = Setup { steps: vec![vec![sequence.len]], ..setup.clone() };
        assert_same(&alone, &[sequence], &expected[i..=i]);
    }
}

#[test]
fn att_3_what_lies_beyond_the_valid_positions_does_not_matter() {
    covers!("ATT-3");
    let mut rng = TestRng::new(9);
    let heads = Heads { kv_heads: 1, group: 2, head_dim: 16 };
    for kv_type in KvType::ALL {
        let sequences = [45, 290].map(|len| Sequence::random(&mut rng, len, heads));
        let (setup, expected) = baseline(heads, kv_type, &sequences);
        assert!(expected.iter().flatten().all(|x| x.is_finite()));
        for poison in [0.0, -0.0, 6e4, f32::INFINITY, f32::NEG_INFINITY] {
            for block_size in [5, 32, 64] {
                assert_same(&Setup { poison, block_size, ..setup.clone() }, &sequences, &expected);
            }
        }
    }
}

/// Every value of `stored` `[num_blocks][kv_heads]`, slots descending from `rows + 1`, is the rounded one of `x`.
fn assert_stored<E: element::Element>(kv: &KvCache, stored: &[E], sequence: &Sequence) {
    let KvShape { kv_heads, head_dim, block_size, kv_type, .. } = *kv.shape();
    let value = |x: E, scales: &[f16], d: usize, place: usize| {
        x.widen() * scales.get(d / SCALE_BLOCK * block_size + place).map_or(1.0, |d| d.to_f32())
    };
    for row in 0..sequence.len {
        let slot = sequence.len + 1 - row;
        let (block, place) = (slot / block_size, slot % block_size);
        for head in 0..kv_heads {
            let from = (row * kv_heads + head) * head_dim;
            let head_len = kv.block_len() / kv_heads;
            let stored = Head::of(kv.shape(), &stored[block * kv.block_len() + head * head_len..][..head_len]);
            let k = as_stored(&sequence.k[from..][..head_dim], kv_type);
            let v = as_stored(&sequence.v[from..][..head_dim], kv_type);
            for d in 0..head_dim {
                let (at_k, at_v) = (d * block_size + place, place * head_dim + d);
                assert_eq!(value(stored.k[at_k], stored.k_scales, d, place).to_bits(), k[d].to_bits());
                assert_eq!(value(stored.v[at_v], stored.v_scales, d, place).to_bits(), v[d].to_bits());
            }
        }
    }
}

#[test]
fn kv_1_kv_2_values_are_stored_rounded_where_the_layout_says() {
    covers!("KV-1", "KV-2", "KVC-2");
    let mut rng = TestRng::new(10);
    for (kv_type, head_dim) in KvType::ALL.into_iter().flat_map(|ty| [(ty, 3), (ty, 70)]) {
        let heads = Heads { kv_heads: 2, group: 1, head_dim };
        let setup = Setup { heads, kv_type, spec: spec(head_dim), block_size: 4, poison: f32::NAN, steps: vec![] };
        for rows in [1, 5, 200] {
            let sequence = Sequence::random(&mut rng, rows, heads);
            let (mut kv, _) = setup.cache(std::slice::from_ref(&sequence));
            // Slots in descending order: rows of a block need not be neighbours.
            let slot_mapping = (0..rows as u32).rev().map(|row| Slot(row + 2)).collect();
            let batch = ForwardBatch { slot_mapping, ..Default::default() };
            for_each_ctx(|ctx| {
                write_kv(ctx, &mut kv, 1, &sequence.k, &sequence.v, &batch);
                match kv.layer(1) {
                    LayerKv::F16(stored) => assert_stored(&kv, stored, &sequence),
                    LayerKv::BF16(stored) => assert_stored(&kv, stored, &sequence),
                    LayerKv::F32(stored) => assert_stored(&kv, stored, &sequence),
                    LayerKv::Q8_0(stored) => assert_stored(&kv, stored, &sequence),
                }
            });
        }
    }
}

/// Ties, subnormal numbers and the ends of the range, written out.
#[test]
fn kv_1_values_round_to_the_nearest_and_ties_to_even() {
    covers!("KV-1");
    let p = |e| 2f32.powi(e);
    let of_f16 = [
        (65519.0, 0x7bff),
        (65520.0, 0x7c00),
        (-65520.0, 0xfc00),
        (1.0 + p(-11), 0x3c00),
        (1.0 + 3.0 * p(-11), 0x3c02),
        (p(-14) - p(-25), 0x0400),
        (1.5 * p(-24), 0x0002),
        (1.001 * p(-25), 0x0001),
        (p(-25), 0x0000),
        (-0.0, 0x8000),
    ];
    let of_bf16 = [
        (f32::MAX, 0x7f80),
        (1.0 + p(-8), 0x3f80),
        (1.0 + 3.0 * p(-8), 0x3f82),
        (-1.0 - 1.001 * p(-8), 0xbf81),
        (p(-126) - p(-134), 0x0080),
        (p(-133), 0x0001),
        (1.5 * p(-133), 0x0002),
        (p(-134), 0x0000),
        (f32::INFINITY, 0x7f80),
        (-0.0, 0x8000),
    ];
    for (kv_type, table) in [(KvType::F16, of_f16), (KvType::BF16, of_bf16)] {
        let heads = Heads { kv_heads: 1, group: 1, head_dim: table.len() };
        let setup = Setup { heads, kv_type, spec: spec(1), block_size: 1, poison: 0.0, steps: vec![] };
        let x: Vec<f32> = table.iter().map(|(x, _)| *x).collect();
        let (mut kv, _) = setup.cache(&[Sequence { len: 1, q: x.clone(), k: x.clone(), v: x.clone() }]);
        let batch = ForwardBatch { slot_mapping: vec![Slot(0)], ..Default::default() };
        for_each_ctx(|ctx| {
            write_kv(ctx, &mut kv, 1, &x, &x, &batch);
            let stored: Vec<u16> = match kv.layer(1) {
                LayerKv::F16(stored) => stored.iter().map(|x| x.to_bits()).collect(),
                LayerKv::BF16(stored) => stored.iter().map(|x| x.to_bits()).collect(),
                _ => unreachable!("of two bytes"),
            };
            let expected: Vec<u16> = table.iter().map(|(_, bits)| *bits).collect();
            // A block of one place: K, then V.
            assert_eq!(stored[..20], [&expected[..], &expected[..]].concat(), "{kv_type} {:?}", ctx.isa);
        });
    }
}
