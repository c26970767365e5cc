//! A tile of K and V copied as f32: from blocks that tiles do not fit, or because many queries share it.

use super::element::Element;
use super::strips::padded;
use super::tile::{KvTile, TILE};
use crate::kernels::lanes::{LANES, LaneOp, Lanes};

#[derive(Default)]
pub(super) struct Widened {
    /// `[head_dim][TILE]`.
    k: Vec<f32>,
    /// `[TILE][padded head_dim]`; what pads may be anything.
    v: Vec<f32>,
}

impl Widened {
    pub(super) fn resize(&mut self, head_dim: usize) {
        self.k.resize(head_dim * TILE, 0.0);
        self.v.resize(TILE * padded(head_dim), 0.0);
    }

    /// Sets dimension `d` of position `lane`.
    pub(super) fn set(&mut self, lane: usize, d: usize, k: f32, v: f32) {
        let v_stride = self.v.len() / TILE;
        self.k[d * TILE + lane] = k;
        self.v[lane * v_stride + d] = v;
    }

    pub(super) fn tile(&self) -> KvTile<'_, f32> {
        let v_stride = self.v.len() / TILE;
        KvTile { k: &self.k, k_scales: &[], k_stride: TILE, v: &self.v, v_scales: &[], v_stride }
    }
}

/// Copies a tile of whole vectors.
pub(super) struct Fill<'a, E> {
    pub(super) from: KvTile<'a, E>,
    pub(super) to: &'a mut Widened,
}

impl<E: Element> LaneOp for Fill<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { from, to } = self;
        for (d, row) in to.k.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            for (vector, to) in row.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let [k] = from.k_row(l, d, vector);
                l.store(k, to);
            }
        }
        for (t, row) in to.v.chunks_exact_mut(from.v_stride).enumerate() {
            for (vector, to) in row.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let [v] = from.v_row(l, t, vector);
                l.store(v, to);
            }
        }
    }
}
