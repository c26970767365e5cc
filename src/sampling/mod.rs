//! From a row of logits to a token: modify, then choose.
//!
//! Pure, and exact: order of processors, order of sums, rounding and the random stream are defined in
//! `specs/05_SAMPLING.md`, so that a seed means the same text on every machine and in every version.

mod candidates;
mod logprobs;
pub mod math;
pub mod params;
mod philox;
mod processors;
mod sampler;
pub mod stop;

pub use philox::{philox4x32_10, uniform};
pub use sampler::{Row, SampleError, Scratch, sample};
