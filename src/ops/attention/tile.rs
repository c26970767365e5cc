//! K and V of one tile of positions, where the kernel reads them, and the tile after it.

use half::f16;

use super::element::Element;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv_cache::SCALE_BLOCK;

/// Positions of a tile, aligned to absolute positions.
pub(super) const TILE: usize = 32;

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
    pub(super) fn step<L: Lanes>(&mut self, l: L) {
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
