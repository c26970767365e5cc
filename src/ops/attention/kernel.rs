//! The arithmetic of attention: a strip of queries over one tile of positions, and the merging of chunks.

use std::ops::Range;

use super::AttentionSpec;
use super::element::Element;
use super::tile::{Ahead, KvTile, TILE};
use crate::kernels::lanes::{LANES, Lanes};
use crate::ops::exp::exp;
use crate::ops::tanh;

/// Vectors of a row of scores.
const LANE_VECTORS: usize = TILE / LANES;
/// The most queries of a strip.
pub(super) const STRIP: usize = 8;
/// Positions of a chunk, which is summed by itself: whole tiles.
pub(super) const CHUNK: usize = 8 * TILE;

/// Queries of the next strip, of `left`: a power of two, for which there is a kernel.
pub(super) fn strip_len<L: Lanes>(left: usize) -> usize {
    let most = left.min(L::ACCUMULATORS).min(STRIP);
    1 << most.ilog2()
}

/// The online softmax of one query, in the current chunk and over the chunks before.
#[derive(Clone, Copy)]
pub(super) struct QueryState {
    /// The positions it sees, from and to.
    first: u32,
    position: u32,
    /// Greatest score of the chunk so far.
    max: f32,
    /// Sums of `e^(score - max)`; lane `i` has positions `i` and `i + 16` of each tile.
    sum: [f32; LANES],
    total_max: f32,
    total_sum: f32,
}

impl QueryState {
    pub(super) fn new(position: u32, spec: &AttentionSpec) -> Self {
        let (max, total_max) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        Self { first: spec.first_visible(position), position, max, sum: [0.0; LANES], total_max, total_sum: 0.0 }
    }

    /// Whether the query sees some of the `len` positions from `first`.
    pub(super) fn sees(&self, first: usize, len: usize) -> bool {
        self.position as usize >= first && (self.first as usize) < first + len
    }

    /// The lanes that the query sees of the tile from position `first`.
    fn visible(&self, first: usize) -> Range<usize> {
        lanes_between(self.first, self.position, first)
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

/// The lanes of the tile from position `first` that hold the positions `from ..= to`.
pub(super) fn lanes_between(from: u32, to: u32, first: usize) -> Range<usize> {
    (from as usize).saturating_sub(first).min(TILE)..(to as usize + 1).saturating_sub(first).min(TILE)
}

/// Lets the strip attend to the tile of positions from `first`, each query to the positions that it sees.
#[inline(always)]
pub(super) fn attend<L: Lanes, E: Element>(
    l: L,
    mut strip: Strip<'_>,
    tile: &KvTile<'_, E>,
    spec: &AttentionSpec,
    first: usize,
    ahead: &mut Ahead<'_>,
) {
    let queries = strip.states.len();
    let visible: [_; STRIP] = std::array::from_fn(|i| strip.states.get(i).map_or(0..TILE, |s| s.visible(first)));
    let begin = visible.iter().fold(0, |begin, visible| begin.max(visible.start));
    let end = visible.iter().fold(TILE, |end, visible| end.min(visible.end));
    // What all queries see is weighed for all at once, and the rest query by query: a term that a query does not see
    // must not even be added as 0.
    let common = if queries > 1 && begin < end { begin..end } else { 0..0 };
    let mut p = [[0.0; TILE]; STRIP];
    match queries {
        8 if L::ACCUMULATORS >= 8 => soft_scores::<L, E, 8>(l, &mut strip, tile, spec, &visible, &mut p, ahead),
        4 if L::ACCUMULATORS >= 4 => soft_scores::<L, E, 4>(l, &mut strip, tile, spec, &visible, &mut p, ahead),
        2 if L::ACCUMULATORS >= 2 => soft_scores::<L, E, 2>(l, &mut strip, tile, spec, &visible, &mut p, ahead),
        1 => soft_scores::<L, E, 1>(l, &mut strip, tile, spec, &visible, &mut p, ahead),
        len => unreachable!("a strip of {len} queries"),
    }
    let padded = strip.out.len() / queries;
    // Where windows begin.
    if common.start > 0 {
        for (i, out) in strip.out.chunks_exact_mut(padded).enumerate() {
            weigh::<L, E, 1>(l, &p[i..], tile, visible[i].start..common.start, out, ahead);
        }
    }
    match queries {
        8 if L::ACCUMULATORS >= 8 => weigh::<L, E, 8>(l, &p, tile, common.clone(), strip.out, ahead),
        4 if L::ACCUMULATORS >= 4 => weigh::<L, E, 4>(l, &p, tile, common.clone(), strip.out, ahead),
        2 if L::ACCUMULATORS >= 2 => weigh::<L, E, 2>(l, &p, tile, common.clone(), strip.out, ahead),
        _ => {}
    }
    // Where the rows' own positions are, or nothing is common.
    for (i, out) in strip.out.chunks_exact_mut(padded).enumerate() {
        let rest = visible[i].start.max(common.end)..visible[i].end;
        if !rest.is_empty() {
            weigh::<L, E, 1>(l, &p[i..], tile, rest, out, ahead);
        }
    }
}

/// Replaces `p` by the weights of the `Q` queries, of which query `i` sees the lanes `visible[i]` of the tile.
#[inline(always)]
fn soft_scores<L: Lanes, E: Element, const Q: usize>(
    l: L,
    strip: &mut Strip<'_>,
    tile: &KvTile<'_, E>,
    spec: &AttentionSpec,
    visible: &[Range<usize>; STRIP],
    p: &mut [[f32; TILE]; STRIP],
    ahead: &mut Ahead<'_>,
) {
    let greatest = masked_scores::<L, E, Q>(l, strip.q, tile, spec, visible, p, ahead);
    let padded = strip.out.len() / Q;
    for i in 0..Q {
        if !visible[i].is_empty() {
            let out = &mut strip.out[i * padded..(i + 1) * padded];
            soften(l, &mut p[i], greatest[i], &visible[i], &mut strip.states[i], out);
        }
    }
}

/// Replaces `p` by the scores of the `Q` queries, -inf where query `i` does not see the position; returns the greatest.
#[inline(always)]
pub(super) fn masked_scores<L: Lanes, E: Element, const Q: usize>(
    l: L,
    q: &[f32],
    tile: &KvTile<'_, E>,
    spec: &AttentionSpec,
    visible: &[Range<usize>; STRIP],
    p: &mut [[f32; TILE]; STRIP],
    ahead: &mut Ahead<'_>,
) -> [f32; Q] {
    if Q * LANE_VECTORS <= L::ACCUMULATORS {
        scores::<L, E, Q, LANE_VECTORS>(l, q, tile, p, ahead);
    } else {
        scores::<L, E, Q, 1>(l, q, tile, p, ahead);
    }
    let mut scale = spec.scale;
    if let Some(cap) = spec.soft_cap {
        for i in 0..Q {
            scale_and_cap(l, &mut p[i], scale, cap);
        }
        // Multiplying by it changes nothing.
        scale = 1.0;
    }
    let mut greatest = [0.0; Q];
    for i in 0..Q {
        greatest[i] = scale_and_mask(l, &mut p[i], scale, &visible[i]);
    }
    greatest
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

#[inline(always)]
fn scale_and_cap<L: Lanes>(l: L, scores: &mut [f32; TILE], scale: f32, cap: f32) {
    for scores in scores.as_chunks_mut::<LANES>().0 {
        l.store(tanh::soft_cap(l, l.mul(l.load(scores), l.splat(scale)), cap), scores);
    }
}

/// Scales the scores, forgets those that are not visible and returns the greatest of the others.
#[inline(always)]
fn scale_and_mask<L: Lanes>(l: L, scores: &mut [f32; TILE], scale: f32, visible: &Range<usize>) -> f32 {
    let (stored, _) = scores.as_chunks_mut::<LANES>();
    let scale = l.splat(scale);
    let (mut low, mut high) = (l.mul(l.load(&stored[0]), scale), l.mul(l.load(&stored[1]), scale));
    if visible.len() < TILE {
        (low, high) = keep(l, visible, (low, high), f32::NEG_INFINITY);
    }
    l.store(low, &mut stored[0]);
    l.store(high, &mut stored[1]);
    l.greatest(l.max(low, high))
}

/// The two vectors of a tile with the lanes that are not visible replaced.
#[inline(always)]
fn keep<L: Lanes>(l: L, visible: &Range<usize>, (low, high): (L::V, L::V), other: f32) -> (L::V, L::V) {
    let other = l.splat(other);
    let low = l.if_before(visible.start, other, l.if_before(visible.end, low, other));
    let (start, end) = (visible.start.saturating_sub(LANES), visible.end.saturating_sub(LANES));
    (low, l.if_before(start, other, l.if_before(end, high, other)))
}

/// What is subtracted from scores whose greatest is `max`: 0 while there is none above -inf, which weighs nothing
/// (ATT-4) and whose difference to itself would be NaN.
#[inline(always)]
fn subtrahend(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// Brings the query's sums to the new maximum and replaces the `visible` (some) scores by `e^(score - max)`.
#[inline(always)]
fn soften<L: Lanes>(
    l: L,
    scores: &mut [f32; TILE],
    greatest: f32,
    visible: &Range<usize>,
    state: &mut QueryState,
    out: &mut [f32],
) {
    let (stored, _) = scores.as_chunks_mut::<LANES>();
    let max = if greatest > state.max { greatest } else { state.max };
    let shift = l.splat(subtrahend(max));
    let mut low = exp(l, l.sub(l.load(&stored[0]), shift));
    let mut high = exp(l, l.sub(l.load(&stored[1]), shift));
    if visible.len() < TILE {
        (low, high) = keep(l, visible, (low, high), 0.0);
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
    let old = exp(l, l.splat(state.total_max - subtrahend(max)));
    let new = exp(l, l.splat(state.max - subtrahend(max)));
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
