//! The arithmetic of attention: a strip of queries over one tile of positions, and the merging of chunks.

use half::f16;

use super::element::Element;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv_cache::SCALE_BLOCK;
use crate::ops::exp::exp;

/// Positions of a tile, aligned to absolute positions.
pub(super) const TILE: usize = 32;
/// Vectors of a row of scores.
pub(super) const LANE_VECTORS: usize = TILE / LANES;
/// The most queries of a strip.
const STRIP: usize = 8;
/// Tiles of a chunk: a chunk of 256 positions is summed by itself.
pub(super) const CHUNK_TILES: usize = 8;

/// Calls `f::<L, _, Q>` with the constant `Q` equal to `$queries`, 1 to [`STRIP`].
macro_rules! for_strip_len {
    (@ $l:ident, $queries:ident, $f:ident, $args:tt, $($q:literal)*) => {
        match $queries {
            $($q => $f::<$l, E, $q> $args,)*
            len => unreachable!("a strip of {len} queries"),
        }
    };
    ($l:ident, $queries:ident, $f:ident $args:tt) => {
        // Two accumulators a query: see `strip_len`.
        if $l::ACCUMULATORS >= LANE_VECTORS * STRIP {
            for_strip_len!(@ $l, $queries, $f, $args, 1 2 3 4 5 6 7 8)
        } else {
            for_strip_len!(@ $l, $queries, $f, $args, 1 2)
        }
    };
}

/// Queries of the next strip, of `left`: as many as the accumulators of the score kernel hold.
pub(super) fn strip_len<L: Lanes>(left: usize) -> usize {
    (L::ACCUMULATORS / LANE_VECTORS).min(STRIP).min(left)
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
    /// The vectors of row `d` of K.
    #[inline(always)]
    fn k_row<L: Lanes>(&self, l: L, d: usize) -> [L::V; LANE_VECTORS] {
        let (k, _) = self.k[d * self.k_stride..][..TILE].as_chunks::<LANES>();
        let k = [E::load(l, &k[0]), E::load(l, &k[1])];
        if !E::SCALED {
            return k;
        }
        let (scales, _) = self.k_scales[d / SCALE_BLOCK * self.k_stride..][..TILE].as_chunks::<LANES>();
        [l.mul(k[0], l.load_f16(&scales[0])), l.mul(k[1], l.load_f16(&scales[1]))]
    }

    /// The `N` vectors from `vector` of row `t` of V.
    #[inline(always)]
    fn v_row<L: Lanes, const N: usize>(&self, l: L, t: usize, vector: usize) -> [L::V; N] {
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

/// Lets the strip of queries `q` `[head_dim][states.len()]` attend to the tile of positions from `first`, each up to
/// its own position. `out` is `[states.len(), head_dim padded to whole vectors]`. At most [`STRIP`] queries.
#[inline(always)]
pub(super) fn attend<L: Lanes, E: Element>(
    l: L,
    q: &[f32],
    tile: &KvTile<'_, E>,
    scale: f32,
    first: usize,
    states: &mut [QueryState],
    out: &mut [f32],
) {
    let queries = states.len();
    let padded = out.len() / queries;
    let mut valid = [0; STRIP];
    for (valid, state) in valid.iter_mut().zip(states.iter()) {
        *valid = (state.position as usize + 1).saturating_sub(first).min(TILE);
    }
    let valid = &valid[..queries];
    let mut p = [[0.0; TILE]; STRIP];
    for_strip_len!(L, queries, scores(l, q, tile, &mut p));
    for i in 0..queries {
        if valid[i] > 0 {
            soften(l, &mut p[i], scale, valid[i], &mut states[i], &mut out[i * padded..(i + 1) * padded]);
        }
    }
    if valid.iter().all(|n| *n == valid[0]) {
        for_strip_len!(L, queries, weigh(l, &p, tile, valid[0], out));
    } else {
        // The tile with the rows' own positions: a term past a query's position must not even be added as 0.
        for i in 0..queries {
            weigh::<L, E, 1>(l, &p[i..], tile, valid[i], &mut out[i * padded..(i + 1) * padded]);
        }
    }
}

/// The products of each query with K at each position: one fused chain over the dimensions, ascending.
#[inline(always)]
fn scores<L: Lanes, E: Element, const Q: usize>(l: L, q: &[f32], tile: &KvTile<'_, E>, out: &mut [[f32; TILE]]) {
    let mut sums = [[l.splat(0.0); LANE_VECTORS]; Q];
    for (d, q) in q.as_chunks::<Q>().0.iter().enumerate() {
        let k = tile.k_row(l, d);
        for i in 0..Q {
            let q = l.splat(q[i]);
            sums[i] = [l.fma(q, k[0], sums[i][0]), l.fma(q, k[1], sums[i][1])];
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        let (out, _) = out.as_chunks_mut::<LANES>();
        l.store(sums[0], &mut out[0]);
        l.store(sums[1], &mut out[1]);
    }
}

/// Scales the scores, forgets those from `valid` (> 0) on, brings the query's sums to the new maximum and replaces the
/// scores by `e^(score - max)`, 0 past the valid ones.
#[inline(always)]
fn soften<L: Lanes>(l: L, scores: &mut [f32; TILE], scale: f32, valid: usize, state: &mut QueryState, out: &mut [f32]) {
    let (stored, _) = scores.as_chunks_mut::<LANES>();
    let valid = [valid, valid.saturating_sub(LANES)];
    let forget = l.splat(f32::NEG_INFINITY);
    let scale = l.splat(scale);
    let low = l.if_before(valid[0], l.mul(l.load(&stored[0]), scale), forget);
    let high = l.if_before(valid[1], l.mul(l.load(&stored[1]), scale), forget);
    let tile_max = l.greatest(l.max(low, high));
    let max = if tile_max > state.max { tile_max } else { state.max };

    let shift = l.splat(max);
    let low = l.if_before(valid[0], exp(l, l.sub(low, shift)), l.splat(0.0));
    let high = l.if_before(valid[1], exp(l, l.sub(high, shift)), l.splat(0.0));
    let sum = if max > state.max {
        let factor = exp(l, l.sub(l.splat(state.max), shift));
        for out in out.as_chunks_mut::<LANES>().0 {
            l.store(l.mul(l.load(out), factor), out);
        }
        l.mul(l.load(&state.sum), factor)
    } else {
        // The factor would be exactly 1.
        l.load(&state.sum)
    };
    l.store(l.add(sum, l.add(low, high)), &mut state.sum);
    state.max = max;
    l.store(low, &mut stored[0]);
    l.store(high, &mut stored[1]);
}

/// `out[i] += sum over t of p[i][t] * v[t]`: for each dimension one fused chain over the `valid` rows of V, ascending.
#[inline(always)]
fn weigh<L: Lanes, E: Element, const Q: usize>(
    l: L,
    p: &[[f32; TILE]],
    tile: &KvTile<'_, E>,
    valid: usize,
    out: &mut [f32],
) {
    let vectors = out.len() / Q / LANES;
    let mut vector = 0;
    if Q * 4 <= L::ACCUMULATORS {
        while vector + 4 <= vectors {
            weigh_vectors::<L, E, Q, 4>(l, p, tile, valid, vector, out);
            vector += 4;
        }
    }
    if Q * 2 <= L::ACCUMULATORS {
        while vector + 2 <= vectors {
            weigh_vectors::<L, E, Q, 2>(l, p, tile, valid, vector, out);
            vector += 2;
        }
    }
    while vector < vectors {
        weigh_vectors::<L, E, Q, 1>(l, p, tile, valid, vector, out);
        vector += 1;
    }
}

/// [`weigh`] for the `N` vectors of dimensions from `vector`.
#[inline(always)]
fn weigh_vectors<L: Lanes, E: Element, const Q: usize, const N: usize>(
    l: L,
    p: &[[f32; TILE]],
    tile: &KvTile<'_, E>,
    valid: usize,
    vector: usize,
    out: &mut [f32],
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
    for t in 0..valid.min(TILE) {
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
