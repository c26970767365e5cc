//! The data of matrices and norms, piece by piece.
//!
//! A matrix of up to [`DIRECT_ELEMENTS`] has its own numbers. A larger one reads a pool of normals, drawn once, from a
//! start of its own and around the pool's end: the pool is a prime number of blocks long, so rows of any length fall on
//! ever new places of it and no two rows of a matrix are alike (of types with super-blocks, no two of 32 771 rows).
//! The pool is encoded once for each scale, after which writing a matrix is copying.

use super::random::Stream;
use crate::quant::{self, WeightType};
use std::io;

const DIRECT_ELEMENTS: u64 = 1 << 20;
/// Elements drawn and encoded at a time; a multiple of every block length.
const PIECE: u64 = 1 << 15;

/// Elements of a block of the pool, and how many there are: a prime.
const fn pool_size(ty: WeightType) -> (usize, usize) {
    if ty.block_len() == 256 { (256, 32_771) } else { (32, 131_071) }
}

type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

pub(super) struct WeightSource {
    seed: u64,
    /// Normals; empty until a large matrix needs them.
    pool: Vec<f32>,
    /// The pool in a type and times a scale, both in `encoded_as`.
    encoded: Vec<u8>,
    encoded_as: Option<(WeightType, f32)>,
}

impl WeightSource {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, pool: Vec::new(), encoded: Vec::new(), encoded_as: None }
    }

    /// `elements` normals times `scale` in type `ty`, to `sink` in pieces.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        elements: u64,
        ty: WeightType,
        scale: f32,
        sink: Sink,
    ) -> io::Result<()> {
        let stream = Stream::new(self.seed, name);
        if elements > DIRECT_ELEMENTS {
            self.encode_pool(ty, scale);
            self.pooled(stream, elements, pool_size(ty), sink)
        } else {
            direct(stream, elements, ty, scale, sink)
        }
    }

    /// `len` numbers near 1 (deviation 0.1), as F32.
    pub(super) fn norm(&self, name: &str, len: u64) -> Vec<u8> {
        let stream = Stream::new(self.seed, name);
        (0..len).flat_map(|i| (1.0 + 0.1 * stream.normal(i)).to_le_bytes()).collect()
    }

    /// `len` numbers of mean 0 and deviation 0.1, as F32.
    pub(super) fn bias(&self, name: &str, len: u64) -> Vec<u8> {
        let stream = Stream::new(self.seed, name);
        (0..len).flat_map(|i| (0.1 * stream.normal(i)).to_le_bytes()).collect()
    }

    fn pooled(&self, stream: Stream, elements: u64, (block, blocks): (usize, usize), sink: Sink) -> io::Result<()> {
        let bytes_per_block = self.encoded.len() / blocks;
        // For the float types the last block of a matrix may be cut; integer matrices are whole blocks.
        let elements = elements as usize;
        let mut left = elements / block * bytes_per_block + elements % block * bytes_per_block / block;
        let mut start = (stream.bits(0) % blocks as u64) as usize * bytes_per_block;
        while left > 0 {
            let piece = &self.encoded[start..];
            let piece = &piece[..piece.len().min(left)];
            sink(piece)?;
            left -= piece.len();
            start = 0;
        }
        Ok(())
    }

    fn encode_pool(&mut self, ty: WeightType, scale: f32) {
        if self.encoded_as == Some((ty, scale)) {
            return;
        }
        let (block, blocks) = pool_size(ty);
        let (stream, len) = (Stream::new(self.seed, "pool"), block * blocks);
        self.pool.extend((self.pool.len()..len).map(|i| stream.normal(i as u64)));
        self.encoded.clear();
        let mut numbers = Vec::with_capacity(PIECE as usize);
        for piece in self.pool[..len].chunks(PIECE as usize) {
            numbers.clear();
            numbers.extend(piece.iter().map(|x| scale * x));
            quant::quantize_row(ty, &numbers, &mut self.encoded);
        }
        self.encoded_as = Some((ty, scale));
    }
}

/// Numbers of the matrix's own stream.
fn direct(stream: Stream, elements: u64, ty: WeightType, scale: f32, sink: Sink) -> io::Result<()> {
    let mut bytes = Vec::new();
    for start in (0..elements).step_by(PIECE as usize) {
        let end = elements.min(start + PIECE);
        let numbers: Vec<f32> = (start..end).map(|i| scale * stream.normal(i)).collect();
        bytes.clear();
        quant::quantize_row(ty, &numbers, &mut bytes);
        sink(&bytes)?;
    }
    Ok(())
}
