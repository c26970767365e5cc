//! The storage of the paged KV cache.
//!
//! Blocks of `block_size` token places. A layer is one array, `[num_blocks][kv_heads]` of [`Head`]: K transposed, so
//! that tokens are adjacent for `q K^T`; V a row a token, so that dimensions are adjacent for `p V`. Which block
//! belongs to which sequence is not known here.

use std::fmt;
use std::str::FromStr;

use bytemuck::Pod;
use half::{bf16, f16};

use crate::huge_pages::HugeBuffer;

#[cfg(test)]
mod tests;

/// The largest head dimension attention works with.
pub const MAX_HEAD_DIM: usize = 256;

/// Elements of a head that share a scale in a type with scales; the last ones of a head may be fewer.
pub const SCALE_BLOCK: usize = 32;

/// How the elements of K and V are stored: KV-1 and KV-2 of `specs/numerics.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Rounded to the nearest f16, ties to even.
    F16,
    /// Rounded to the nearest bf16, ties to even.
    BF16,
    F32,
    /// Integers of 8 bits, with an f16 scale for each [`SCALE_BLOCK`].
    Q8_0,
}

impl KvType {
    pub const ALL: [Self; 4] = [Self::F16, Self::BF16, Self::F32, Self::Q8_0];

    /// Bytes of one element, its scale apart.
    const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::Q8_0 => 1,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::Q8_0 => "q8_0",
        })
    }
}

impl FromStr for KvType {
    type Err = KvCacheError;

    /// Reads the value of `--kv-type`.
    fn from_str(text: &str) -> Result<Self, KvCacheError> {
        match text {
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::BF16),
            "f32" => Ok(Self::F32),
            "q8_0" => Ok(Self::Q8_0),
            _ => Err(KvCacheError::UnknownType(text.into())),
        }
    }
}

/// A cache cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KvCacheError {
    #[error("--kv-type {0}: unknown; one of f16, bf16, f32, q8_0")]
    UnknownType(String),
    #[error("KV cache: {0} must not be 0")]
    Zero(&'static str),
    #[error("KV cache: head_dim {0} is greater than {MAX_HEAD_DIM}")]
    HeadDim(usize),
    #[error("KV cache: {num_blocks} blocks of {block_size} token places are too many to number")]
    TooManySlots { num_blocks: usize, block_size: usize },
    #[error("KV cache: the size of {num_blocks} blocks overflows")]
    Overflow { num_blocks: usize },
    #[error("KV cache: {bytes} bytes cannot be allocated")]
    OutOfMemory { bytes: u64 },
}

/// What determines the size of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    /// Elements of one head's K or V: 1 to [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Token places of a block: at least 1; 32 is the fast case.
    pub block_size: usize,
    pub kv_type: KvType,
}

impl KvShape {
    /// Bytes of one block over all layers: what `--kv-cache` is divided by.
    pub fn block_bytes(&self) -> Result<u64, KvCacheError> {
        self.check()?;
        let overflow = KvCacheError::Overflow { num_blocks: 1 };
        let block = self.block_len().and_then(|len| len.checked_mul(self.kv_type.bytes()));
        let all = block.and_then(|bytes| bytes.checked_mul(self.layers));
        all.and_then(|bytes| u64::try_from(bytes).ok()).ok_or(overflow)
    }

    /// Elements of one head in one block of a layer: those of a [`Head`], a scale counting as two of Q8_0.
    fn head_len(&self) -> Option<usize> {
        let scales = if self.kv_type == KvType::Q8_0 { 2 * self.head_dim.div_ceil(SCALE_BLOCK) } else { 0 };
        self.block_size.checked_mul(2 * (self.head_dim + scales))
    }

    /// Elements of one block in one layer: all its heads.
    fn block_len(&self) -> Option<usize> {
        self.kv_heads.checked_mul(self.head_len()?)
    }

    fn check(&self) -> Result<(), KvCacheError> {
        let numbers = [
            ("layers", self.layers),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("block_size", self.block_size),
        ];
        if let Some((name, _)) = numbers.into_iter().find(|(_, n)| *n == 0) {
            return Err(KvCacheError::Zero(name));
        }
        if self.head_dim > MAX_HEAD_DIM { Err(KvCacheError::HeadDim(self.head_dim)) } else { Ok(()) }
    }
}

/// The storage of K and V for every block of the pool.
pub struct KvCache {
    shape: KvShape,
    num_blocks: usize,
    block_len: usize,
    layers: Vec<HugeBuffer>,
}

/// The elements of a layer: `[num_blocks][kv_heads]` of what [`Head::of`] takes.
pub enum LayerKv<'a> {
    F16(&'a [f16]),
    BF16(&'a [bf16]),
    F32(&'a [f32]),
    /// The scales are cast: two elements each.
    Q8_0(&'a [i8]),
}

/// [`LayerKv`] for writing.
pub enum LayerKvMut<'a> {
    F16(&'a mut [f16]),
    BF16(&'a mut [bf16]),
    F32(&'a mut [f32]),
    Q8_0(&'a mut [i8]),
}

/// One head's part of a block.
pub struct Head<'a, E> {
    /// `[head_dim][block_size]`.
    pub k: &'a [E],
    /// `[block_size][head_dim]`.
    pub v: &'a [E],
    /// `[ceil(head_dim / SCALE_BLOCK)][block_size]`: of K, and of V; empty for types without scales.
    pub k_scales: &'a [f16],
    pub v_scales: &'a [f16],
}

/// [`Head`] for writing.
pub struct HeadMut<'a, E> {
    pub k: &'a mut [E],
    pub v: &'a mut [E],
    pub k_scales: &'a mut [f16],
    pub v_scales: &'a mut [f16],
}

impl<'a, E: Pod> Head<'a, E> {
    /// The parts of `elements`, one head of a block: `block_len / kv_heads`.
    pub fn of(shape: &KvShape, elements: &'a [E]) -> Self {
        let (k, rest) = elements.split_at(shape.head_dim * shape.block_size);
        let (v, scales) = rest.split_at(k.len());
        let scales: &[f16] = bytemuck::cast_slice(scales);
        let (k_scales, v_scales) = scales.split_at(scales.len() / 2);
        Self { k, v, k_scales, v_scales }
    }
}

impl<'a, E: Pod> HeadMut<'a, E> {
    /// As [`Head::of`].
    pub fn of(shape: &KvShape, elements: &'a mut [E]) -> Self {
        let (k, rest) = elements.split_at_mut(shape.head_dim * shape.block_size);
        let (v, scales) = rest.split_at_mut(k.len());
        let scales: &mut [f16] = bytemuck::cast_slice_mut(scales);
        let (k_scales, v_scales) = scales.split_at_mut(scales.len() / 2);
        Self { k, v, k_scales, v_scales }
    }
}

impl KvCache {
    /// Allocates and touches `num_blocks` blocks. Every place holds NaN until it is written.
    pub fn new(shape: KvShape, num_blocks: usize) -> Result<Self, KvCacheError> {
        let block_bytes = shape.block_bytes()?;
        if num_blocks == 0 {
            return Err(KvCacheError::Zero("num_blocks"));
        }
        let slots = num_blocks.checked_mul(shape.block_size);
        if slots.is_none_or(|slots| u32::try_from(slots).is_err()) {
            return Err(KvCacheError::TooManySlots { num_blocks, block_size: shape.block_size });
        }
        let overflow = || KvCacheError::Overflow { num_blocks };
        let bytes = u64::try_from(num_blocks).ok().and_then(|n| n.checked_mul(block_bytes)).ok_or_else(overflow)?;
        let block_len = shape.block_len().ok_or_else(overflow)?;
        let layer_bytes = num_blocks
            .checked_mul(block_len)
            .and_then(|len| len.checked_mul(shape.kv_type.bytes()))
            .ok_or_else(overflow)?;
        let mut layers = Vec::new();
        for _ in 0..shape.layers {
            // Blocks lie anywhere: with small pages nearly every one costs the walk of a page table.
            let mut layer = HugeBuffer::zeroed(layer_bytes).map_err(|_| KvCacheError::OutOfMemory { bytes })?;
            // All bits set is NaN in every type, or in its scales: a place read before it is written cannot go
            // unnoticed.
            layer.bytes_mut().fill(0xff);
            layers.push(layer);
        }
        Ok(Self { shape, num_blocks, block_len, layers })
    }

    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Token places of a block.
    pub fn block_size(&self) -> usize {
        self.shape.block_size
    }

    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes().len() as u64).sum()
    }

    /// Elements of one block in a layer: `kv_heads` times those of a [`Head`].
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// Copies what block `from` holds, in every layer, to block `to`. All bits stay as they are.
    pub fn copy_block(&mut self, from: usize, to: usize) {
        let bytes = self.block_len * self.shape.kv_type.bytes();
        assert!(from < self.num_blocks && to < self.num_blocks, "block {from} or {to} of {}", self.num_blocks);
        for layer in &mut self.layers {
            layer.bytes_mut().copy_within(from * bytes..(from + 1) * bytes, to * bytes);
        }
    }

    /// The elements of `layer` (`0..layers`).
    pub fn layer(&self, layer: usize) -> LayerKv<'_> {
        let bytes = &self.layers[layer].bytes()[..self.num_blocks * self.block_len * self.shape.kv_type.bytes()];
        match self.shape.kv_type {
            KvType::F16 => LayerKv::F16(bytemuck::cast_slice(bytes)),
            KvType::BF16 => LayerKv::BF16(bytemuck::cast_slice(bytes)),
            KvType::F32 => LayerKv::F32(bytemuck::cast_slice(bytes)),
            KvType::Q8_0 => LayerKv::Q8_0(bytemuck::cast_slice(bytes)),
        }
    }

    /// The elements of `layer` (`0..layers`), for writing.
    pub fn layer_mut(&mut self, layer: usize) -> LayerKvMut<'_> {
        let len = self.num_blocks * self.block_len * self.shape.kv_type.bytes();
        let bytes = &mut self.layers[layer].bytes_mut()[..len];
        match self.shape.kv_type {
            KvType::F16 => LayerKvMut::F16(bytemuck::cast_slice_mut(bytes)),
            KvType::BF16 => LayerKvMut::BF16(bytemuck::cast_slice_mut(bytes)),
            KvType::F32 => LayerKvMut::F32(bytemuck::cast_slice_mut(bytes)),
            KvType::Q8_0 => LayerKvMut::Q8_0(bytemuck::cast_slice_mut(bytes)),
        }
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache").field("shape", &self.shape).field("num_blocks", &self.num_blocks).finish()
    }
}
