//! Model arithmetic over slices of f32, and the thread pool it runs on.
//!
//! An op is a function that takes a [`Ctx`], reads shared slices, and writes each output element exactly once. Which
//! worker computes an element never changes its bits: the order of every sum is fixed by `specs/numerics.md`.

pub mod activation;
pub mod activations;
pub mod attention;
pub mod disjoint;
pub mod embedding;
pub mod exp;
pub mod matmul;
pub mod norm;
pub mod packed_matrix;
pub mod pool;
pub mod rope;
pub mod tanh;
#[cfg(test)]
pub(crate) mod test_weights;
#[cfg(test)]
pub(crate) mod tests;

use crate::kernels::Isa;
pub use activation::add;
use pool::Pool;

/// What every op needs: the workers and the instruction-set path.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    pub pool: &'a Pool,
    pub isa: Isa,
}
