//! The embedding lookup.

use super::Ctx;
use super::packed_matrix::PackedMatrix;
use crate::types::TokenId;

/// Row `token_ids[t]` of the embedding as f32: `out` is `[T, K]`. The panels are those of a tied output head.
/// `specs/numerics.md` MM-7.
///
/// # Panics
/// If a token id is not a row of `weights`, or `out` is not `T * K` long.
pub fn gather(ctx: &Ctx<'_>, weights: &PackedMatrix, token_ids: &[TokenId], out: &mut [f32]) {
    assert_eq!(out.len(), token_ids.len() * weights.k(), "elements of {} tokens", token_ids.len());
    ctx.pool.run_chunks(out, weights.k(), |t, row| weights.dequantize_row(ctx.isa, token_ids[t] as usize, row));
}
