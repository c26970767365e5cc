//! The arithmetic of attention: a strip of queries over one tile of positions, and the merging of chunks.

use std::ops::Range;

use half::f16;

use super::element::Element;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv_cache::SCALE_BLOCK;
use crate::ops::exp::exp;

/// Positions of a tile, aligned to absolute positions.
pub(super) const TILE: usize = 32;
/// Vectors of a row of scores.
const LANE_VECTORS: usize = TILE / LANES;
/// The most queries of a strip.
pub(super) const STRIP: usize = 8;
/// Tiles of a chunk: a chunk of 256 positions is summed by itself.
pub(super) const CHUNK_TILES: usize = 8;

/// Queries of the next strip, of `left`: a power of two, for which there is a kernel.
pub(super) fn strip_len<L: Lanes>(left: usize) -> usize {
    let most = left.min(L::ACCUMULATORS).min(STRIP);
    1 << most.ilog2()
}

/// The K and V of the tile after the current one, fetched into the cache little by little: the blocks of a sequence lie
/// anywhere, and the hardware does not see where the next one is.
pub(super) struct Ahead<'a>(std::slice::Chunks<'a, u8>);

impl<'a> Ahead<'a> {
    /// A cache line.
    const LINE: usize = 64;

    /// The lines of `elements`, spread over the steps that a strip of 8 takes over a tile: bursts would fill the miss
    /// buffers and hold up the loads of the current tile.
    pub(super) fn new<E: Element>(elements: &'a [E], head_dim: usize) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        let lines = bytes.len() / Self::LINE / (2 * head_dim);
        Self(bytes.chunks(lines.max(1) * Self::LINE))
    }

    #[inline(always)]
    fn step<L: Lanes>(&mut self, l: L) {
        if let Some(lines) = self.0.next() {
            for line in lines.chunks(Self::LINE) {
                l.prefetch(&line[0]);
            }
        }
    }
}

/// K and V of [`TILE`] positions; those that are not valid for a query may hold anything.
pub(super) struct KvTile<'a, E> {
    /// Row `d` is `k[d * k_stride ..][.. TILE]`; of the scales, row `d / SCALE_BLOCK` likewise.
    pub(super) k: &'a [E],
    pub(super) k_scales: &'a [f16],
    pub(super) k_stride: usize,
    /// `[TILE][v_stride]`: whole vectors; of the scales, row `d / SCALE_BLOCK` is as that of K.
    pub(super) v: &'a [E],
    pub(super) v_scales: &'a [f16],
    pub(super) v_stride: usize,
}

impl<E: Element> KvTile<'_, E> {
    /// The `N` vectors from `vector` of row `d` of K.
    #[inline(always)]
    pub(super) fn k_row<L: Lanes, const N: usize>(&self, l: L, d: usize, vector: usize) -> [L::V; N] {
        let (k, _) = self.k[d * self.k_stride + vector * LANES..][..N * LANES].as_chunks::<LANES>();
        let mut row = [l.splat(0.0); N];
        for n in 0..N {
            row[n] = E::load(l, &k[n]);
        }
        if E::SCALED {
            let at = d / SCALE_BLOCK * self.k_stride + vector * LANES;
            let (scales, _) = self.k_scales[at..][..N * LANES].as_chunks::<LANES>();
            for n in 0..N {
                row[n] = l.mul(row[n], l.load_f16(&scales[n]));
            }
        }
        row
    }

    /// The `N` vectors from `vector` of row `t` of V.
    #[inline(always)]
    pub(super) fn v_row<L: Lanes, const N: usize>(&self, l: L, t: usize, vector: usize) -> [L::V; N] {
        let (v, _) = self.v[t * self.v_stride + vector * LANES..][..N * LANES].as_chunks::<LANES>();
        let mut row = [l.splat(0.0); N];
        for n in 0..N {
            row[n] = E::load(l, &v[n]);
            if E::SCALED {
                let scale = self.v_scales[(vector + n) * LANES / SCALE_BLOCK * self.k_stride + t];
                row[n] = l.mul(row[n], l.splat(scale.to_f32()));
            }
        }
        row
    }
}

/// The online softmax of one query, in the current chunk and over the chunks before.
#[derive(Clone, Copy)]
pub(super) struct QueryState {
    pub(super) position: u32,
    /// Greatest score of the chunk so far.
    max: f32,
    /// Sums of `e^(score - max)`; lane `i` has positions `i` and `i + 16` of each tile.
    sum: [f32; LANES],
    total_max: f32,
    total_sum: f32,
}

impl QueryState {
    pub(super) fn new(position: u32) -> Self {
        Self { position, max: f32::NEG_INFINITY, sum: [0.0; LANES], total_max: f32::NEG_INFINITY, total_sum: 0.0 }
    }
}

/// Queries that are worked on together, as many as [`strip_len`] says.
pub(super) struct Strip<'a> {
    /// `[head_dim][queries]`.
    pub(super) q: &'a [f32],
    pub(super) states: &'a mut [QueryState],
    /// `[queries, head_dim padded to whole vectors]`.
    pub(super) out: &'a mut [f32],
}

/// Lets the strip attend to the tile of positions from `first`, each query up to its own position.
#[inline(always)]
pub(super) fn attend<L: Lanes, E: Element>(
    l: L,
    mut strip: Strip<'_>,
    tile: &KvTile<'_, E>,
    scale: f32,
    first: usize,
    ahead: &mut Ahead<'_>,
) {
    let queries = strip.states.len();
    let mut valid = [TILE; STRIP];
    for (valid, state) in valid.iter_mut().zip(strip.states.iter()) {
        *valid = (state.position as usize + 1).saturating_sub(first).min(TILE);
    }
    let common = valid.iter().fold(TILE, |common, valid| common.min(*valid));
    let mut p = [[0.0; TILE]; STRIP];
    match queries {
        8 if L::ACCUMULATORS >= 8 => {
            soft_scores::<L, E, 8>(l, &mut strip, tile, scale, &valid, &mut p, ahead);
            weigh::<L, E, 8>(l, &p, tile, 0..common, strip.out, ahead);
        }
        4 if L::ACCUMULATORS >= 4 => {
            soft_scores::<L, E, 4>(l, &mut strip, tile, scale, &valid, &mut p, ahead);
            weigh::<L, E, 4>(l, &p, tile, 0..common, strip.out, ahead);
        }
        2 if L::ACCUMULATORS >= 2 => {
            soft_scores::<L, E, 2>(l, &mut strip, tile, scale, &valid, &mut p, ahead);
            weigh::<L, E, 2>(l, &p, tile, 0..common, strip.out, ahead);
        }
        1 => soft_scores::<L, E, 1>(l, &mut strip, tile, scale, &valid, &mut p, ahead),
        len => unreachable!("a strip of {len} queries"),
    }
    // Where the rows' own positions are: a term past a query's position must not even be added as 0.
    let done = if queries == 1 { 0 } else { common };
    let padded = strip.out.len() / queries;
    for (i, out) in strip.out.chunks_exact_mut(padded).enumerate() {
        if valid[i] > done {
            weigh::<L, E, 1>(l, &p[i..], tile, done..valid[i], out, ahead);
        }
    }
}

/// Replaces `p` by the weights of the `Q` queries, of which query `i` sees the first `valid[i]` positions of the tile.
#[inline(always)]
fn soft_scores<L: Lanes, E: Element, const Q: usize>(
    l: L,
    strip: &mut Strip<'_>,
    tile: &KvTile<'_, E>,
    scale: f32,
    valid: &[usize; STRIP],
    p: &mut [[f32; TILE]; STRIP],
    ahead: &mut Ahead<'_>,
) {
    if Q * LANE_VECTORS <= L::ACCUMULATORS {
        scores::<L, E, Q, LANE_VECTORS>(l, strip.q, tile, p, ahead);
    } else {
        scores::<L, E, Q, 1>(l, strip.q, tile, p, ahead);
    }
    let padded = strip.out.len() / Q;
    let mut greatest = [0.0; Q];
    for i in 0..Q {
        greatest[i] = scale_and_mask(l, &mut p[i], scale, valid[i]);
    }
    for i in 0..Q {
        if valid[i] > 0 {
            let out = &mut strip.out[i * padded..(i + 1) * padded];
            soften(l, &mut p[i], greatest[i], valid[i], &mut strip.states[i], out);
        }
    }
}

/// The products of each query with K at each position, `N` vectors at a time: one fused chain over the dimensions,
/// ascending.
#[inline(always)]
fn scores<L: Lanes, E: Element, const Q: usize, const N: usize>(
    l: L,
    q: &[f32],
    tile: &KvTile<'_, E>,
    out: &mut [[f32; TILE]; STRIP],
    ahead: &mut Ahead<'_>,
) {
    for vector in (0..LANE_VECTORS).step_by(N) {
        let mut sums = [[l.splat(0.0); N]; Q];
        for (d, q) in q.as_chunks::<Q>().0.iter().enumerate() {
            ahead.step(l);
            let k: [L::V; N] = tile.k_row(l, d, vector);
            for i in 0..Q {
                let q = l.splat(q[i]);
                for n in 0..N {
                    sums[i][n] = l.fma(q, k[n], sums[i][n]);
                }
            }
        }
        for i in 0..Q {
            let (out, _) = out[i].as_chunks_mut::<LANES>();
            for n in 0..N {
                l.store(sums[i][n], &mut out[vector + n]);
            }
        }
    }
}

/// Scales the scores, forgets those from `valid` on and returns the greatest of the others.
#[inline(always)]
fn scale_and_mask<L: Lanes>(l: L, scores: &mut [f32; TILE], scale: f32, valid: usize) -> f32 {
    let (stored, _) = scores.as_chunks_mut::<LANES>();
    let scale = l.splat(scale);
    let (mut low, mut high) = (l.mul(l.load(&stored[0]), scale), l.mul(l.load(&stored[1]), scale));
    if valid < TILE {
        let forget = l.splat(f32::NEG_INFINITY);
        low = l.if_before(valid, low, forget);
        high = l.if_before(valid.saturating_sub(LANES), high, forget);
    }
    l.store(low, &mut stored[0]);
    l.store(high, &mut stored[1]);
    l.greatest(l.max(low, high))
}

/// Brings the query's sums to the new maximum and replaces the `valid` (> 0) scores by `e^(score - max)`.
#[inline(always)]
fn soften<L: Lanes>(
    l: L,
    scores: &mut [f32; TILE],
    greatest: f32,
    valid: usize,
    state: &mut QueryState,
    out: &mut [f32],
) {
    let (stored, _) = scores.as_chunks_mut::<LANES>();
    let max = if greatest > state.max { greatest } else { state.max };
    let shift = l.splat(max);
    let mut low = exp(l, l.sub(l.load(&stored[0]), shift));
    let mut high = exp(l, l.sub(l.load(&stored[1]), shift));
    if valid < TILE {
        low = l.if_before(valid, low, l.splat(0.0));
        high = l.if_before(valid.saturating_sub(LANES), high, l.splat(0.0));
    }
    let mut sum = l.load(&state.sum);
    // Otherwise the factor would be exactly 1.
    if max > state.max {
        let factor = exp(l, l.sub(l.splat(state.max), shift));
        for out in out.as_chunks_mut::<LANES>().0 {
            l.store(l.mul(l.load(out), factor), out);
        }
        sum = l.mul(sum, factor);
    }
    l.store(l.add(sum, l.add(low, high)), &mut state.sum);
    state.max = max;
    l.store(low, &mut stored[0]);
    l.store(high, &mut stored[1]);
}

/// `out[i] += sum over t of p[i][t] * v[t]`: for each dimension one fused chain over the `rows` of V, ascending.
#[inline(always)]
fn weigh<L: Lanes, E: Element, const Q: usize>(
    l: L,
    p: &[[f32; TILE]],
    tile: &KvTile<'_, E>,
    rows: Range<usize>,
    out: &mut [f32],
    ahead: &mut Ahead<'_>,
) {
    let vectors = out.len() / Q / LANES;
    let mut vector = 0;
    if Q * 4 <= L::ACCUMULATORS {
        while vector + 4 <= vectors {
            weigh_vectors::<L, E, Q, 4>(l, p, tile, rows.clone(), vector, out, ahead);
            vector += 4;
        }
    } else if Q * 2 <= L::ACCUMULATORS {
        while vector + 2 <= vectors {
            weigh_vectors::<L, E, Q, 2>(l, p, tile, rows.clone(), vector, out, ahead);
            vector += 2;
        }
    }
    while vector < vectors {
        weigh_vectors::<L, E, Q, 1>(l, p, tile, rows.clone(), vector, out, ahead);
        vector += 1;
    }
}

/// [`weigh`] for the `N` vectors of dimensions from `vector`.
#[inline(always)]
fn weigh_vectors<L: Lanes, E: Element, const Q: usize, const N: usize>(
    l: L,
    p: &[[f32; TILE]],
    tile: &KvTile<'_, E>,
    rows: Range<usize>,
    vector: usize,
    out: &mut [f32],
    ahead: &mut Ahead<'_>,
) {
    let padded = out.len() / Q;
    let columns = vector * LANES..(vector + N) * LANES;
    let mut sums = [[l.splat(0.0); N]; Q];
    for i in 0..Q {
        let (out, _) = out[i * padded..(i + 1) * padded][columns.clone()].as_chunks::<LANES>();
        for n in 0..N {
            sums[i][n] = l.load(&out[n]);
        }
    }
    for t in rows.start..rows.end.min(TILE) {
        ahead.step(l);
        let v: [L::V; N] = tile.v_row(l, t, vector);
        for i in 0..Q {
            let p = l.splat(p[i][t]);
            for n in 0..N {
                sums[i][n] = l.fma(p, v[n], sums[i][n]);
            }
        }
    }
    for i in 0..Q {
        let (out, _) = out[i * padded..(i + 1) * padded][columns.clone()].as_chunks_mut::<LANES>();
        for n in 0..N {
            l.store(sums[i][n], &mut out[n]);
        }
    }
}

/// Adds a finished chunk to the total, and empties it.
#[inline(always)]
pub(super) fn merge<L: Lanes>(l: L, state: &mut QueryState, chunk: &mut [f32], total: &mut [f32]) {
    let max = if state.max > state.total_max { state.max } else { state.total_max };
    let old = exp(l, l.splat(state.total_max - max));
    let new = exp(l, l.splat(state.max - max));
    let (chunks, _) = chunk.as_chunks_mut::<LANES>();
    let (totals, _) = total.as_chunks_mut::<LANES>();
    for (total, chunk) in totals.iter_mut().zip(chunks) {
        l.store(l.fma(l.load(total), old, l.mul(l.load(chunk), new)), total);
        *chunk = [0.0; LANES];
    }
    let chunk_sum = l.splat(l.sum(l.load(&state.sum)));
    let sum = l.fma(l.splat(state.total_sum), old, l.mul(chunk_sum, new));
    state.total_sum = l.greatest(sum);
    state.total_max = max;
    state.max = f32::NEG_INFINITY;
    state.sum = [0.0; LANES];
}

/// `out = total / sum`.
#[inline(always)]
pub(super) fn finish<L: Lanes>(l: L, total: &[f32], state: &QueryState, out: &mut [f32]) {
    let factor = l.splat(1.0 / state.total_sum);
    for (total, out) in total.as_chunks::<LANES>().0.iter().zip(out.chunks_mut(LANES)) {
        l.store_part(l.mul(l.load(total), factor), out);
    }
}
