//! The queries of a unit and their sums, in strips: the queries that one pass of the kernel works on.

use super::AttentionSpec;
use super::element::Element;
use super::kernel::{self, CHUNK, QueryState, Strip, strip_len};
use super::tile::{Ahead, KvTile, TILE};
use super::unit::Unit;
use crate::kernels::lanes::{LANES, LaneOp, Lanes};
use crate::ops::disjoint::Tile;

/// A query is a head of a row; queries are numbered row by row.
#[derive(Default)]
pub(super) struct Strips {
    head_dim: usize,
    /// Strip after strip: `[head_dim][queries of the strip]`.
    q: Vec<f32>,
    /// `[queries, padded head_dim]`: of the chunk, and of the chunks before.
    chunk_out: Vec<f32>,
    total_out: Vec<f32>,
    states: Vec<QueryState>,
}

/// Elements of a head in whole vectors.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

impl Strips {
    fn prepare<L: Lanes>(&mut self, unit: &Unit<'_>) {
        let head_dim = unit.kv.shape().head_dim;
        self.head_dim = head_dim;
        let queries = unit.positions.len() * unit.group;
        for out in [&mut self.chunk_out, &mut self.total_out] {
            out.clear();
            out.resize(queries * padded(head_dim), 0.0);
        }
        self.states.clear();
        for &position in unit.positions {
            self.states.extend(std::iter::repeat_n(QueryState::new(position, &unit.spec), unit.group));
        }
        // Every element is written below.
        self.q.resize(queries * head_dim, 0.0);
        let mut first = 0;
        while first < queries {
            let len = strip_len::<L>(queries - first);
            let strip = &mut self.q[first * head_dim..(first + len) * head_dim];
            for i in 0..len {
                let query = first + i;
                let start = query / unit.group * unit.width + unit.first_column + query % unit.group * head_dim;
                for (q, to) in unit.q[start..start + head_dim].iter().zip(strip[i..].iter_mut().step_by(len)) {
                    *to = *q;
                }
            }
            first += len;
        }
    }
}

/// Packs the queries of a unit and empties the sums.
pub(super) struct Prepare<'a, 'u> {
    pub(super) strips: &'a mut Strips,
    pub(super) unit: &'a Unit<'u>,
}

impl LaneOp for Prepare<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        self.strips.prepare::<L>(self.unit);
    }
}

/// Lets every query attend to one tile, a strip of queries at a time.
pub(super) struct AttendTile<'a, E> {
    pub(super) strips: &'a mut Strips,
    pub(super) spec: AttentionSpec,
    /// Position of the tile's first lane.
    pub(super) first: usize,
    pub(super) tile: KvTile<'a, E>,
    pub(super) ahead: Ahead<'a>,
}

impl<E: Element> LaneOp for AttendTile<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { strips, spec, first, tile, mut ahead } = self;
        let head_dim = strips.head_dim;
        let (mut q, mut out) = (&strips.q[..], &mut strips.chunk_out[..]);
        let mut states = &mut strips.states[..];
        while !states.is_empty() {
            let len = strip_len::<L>(states.len());
            let (strip_q, rest_q) = q.split_at(len * head_dim);
            let (strip_out, rest_out) = out.split_at_mut(len * padded(head_dim));
            let (strip_states, rest_states) = states.split_at_mut(len);
            if strip_states.iter().any(|s| s.sees(first, TILE)) {
                let strip = Strip { q: strip_q, states: strip_states, out: strip_out };
                kernel::attend(l, strip, &tile, &spec, first, &mut ahead);
            }
            (q, out, states) = (rest_q, rest_out, rest_states);
        }
    }
}

/// Adds the chunk from position `first` to the total of every query that attended to it. A query that sees nothing of
/// a chunk has no maximum there to compare.
pub(super) struct MergeChunk<'a> {
    pub(super) strips: &'a mut Strips,
    pub(super) first: usize,
}

impl LaneOp for MergeChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { strips, first } = self;
        let outs = strips.chunk_out.chunks_exact_mut(padded(strips.head_dim));
        let totals = strips.total_out.chunks_exact_mut(padded(strips.head_dim));
        for ((state, chunk), total) in strips.states.iter_mut().zip(outs).zip(totals) {
            if state.sees(first, CHUNK) {
                kernel::merge(l, state, chunk, total);
            }
        }
    }
}

/// Divides by the sums and writes the unit's part of the output.
pub(super) struct Write<'a, 't> {
    pub(super) strips: &'a Strips,
    pub(super) out: Tile<'t>,
}

impl LaneOp for Write<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let head_dim = self.strips.head_dim;
        let mut totals = self.strips.total_out.chunks_exact(padded(head_dim)).zip(&self.strips.states);
        for row in self.out.rows.clone() {
            let heads = self.out.row_mut(row).chunks_exact_mut(head_dim);
            for (out, (total, state)) in heads.zip(totals.by_ref()) {
                kernel::finish(l, total, state, out);
            }
        }
    }
}
