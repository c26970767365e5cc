//! Runs over one mutable buffer: every unit gets a part that no other unit gets.
//!
//! The audited file: the entry points are safe, and each of them checks what its `unsafe` relies on. All of them rely
//! on [`Pool::run`] calling a unit index exactly once and returning only after the last call has.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::pool::Pool;

#[cfg(test)]
mod tests;

/// Elements below which handing work to other threads costs more than it saves, for ops of a few cycles an element.
const SMALL: usize = 16 * 1024;
/// Elements of one unit of such an op.
const UNIT: usize = 4 * 1024;

/// Rows for one unit of an element-wise op over `total` elements in rows of `width` (> 0): all of them where the op is
/// too small to share. At least 1.
pub(super) fn rows_per_unit(total: usize, width: usize) -> usize {
    if total <= SMALL { (total / width).max(1) } else { (UNIT / width).max(1) }
}

/// A buffer cut into chunks of `chunk_len` elements, the last one possibly shorter.
struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    chunk_len: usize,
    _buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: sharing it between threads only lets each of them take chunks, and `take` demands that no chunk is taken
// twice; an element thus moves to one thread at most, which `T: Send` allows.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    fn new(buffer: &'a mut [T], chunk_len: usize) -> Self {
        assert!(chunk_len > 0, "chunk_len must not be 0");
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), chunk_len, _buffer: PhantomData }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk_len)
    }

    /// Chunk `index`.
    ///
    /// # Safety
    /// No chunk may be taken again while an earlier reference to it lives.
    #[expect(clippy::mut_from_ref)]
    unsafe fn take(&self, index: usize) -> &mut [T] {
        assert!(index < self.count(), "chunk {index} of {}", self.count());
        let begin = index * self.chunk_len;
        let len = self.chunk_len.min(self.len - begin);
        // SAFETY: begin + len <= self.len, inside the buffer this struct borrows mutably; the caller promises that
        // no other reference to this chunk lives, and chunks of different index do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(begin), len) }
    }
}

/// A rectangle of a row-major matrix that this unit alone may write.
pub struct Tile<'a> {
    /// Rows of the matrix this tile covers.
    pub rows: Range<usize>,
    /// Columns of the matrix this tile covers.
    pub cols: Range<usize>,
    start: *mut f32,
    stride: usize,
    // Copies of the ranges, as the public ones can be changed by their holder.
    own_rows: (usize, usize),
    own_cols: (usize, usize),
    _matrix: PhantomData<&'a mut [f32]>,
}

impl Tile<'_> {
    /// The tile's part of matrix row `row` (a row number of the whole matrix): `[cols.len()]`.
    ///
    /// # Panics
    /// If the row is not one of the tile's.
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let (first, end) = self.own_rows;
        assert!(first <= row && row < end, "row {row} of a tile with rows {first}..{end}");
        let (begin, stop) = self.own_cols;
        // SAFETY: `run_grid` and `run_columns`, which make the tiles, checked that the last row ends inside the matrix
        // and make none that overlap; `&mut self` keeps a second reference into this one away while the result lives.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride + begin), stop - begin) }
    }
}

/// The start of a matrix whose tiles are handed to different threads.
struct Matrix(*mut f32);

// SAFETY: only used to make tiles that do not overlap, one for each unit.
unsafe impl Sync for Matrix {}

/// A matrix whose columns are shared out among units: rows of `stride` elements.
pub struct Columns<'a> {
    pub out: &'a mut [f32],
    pub stride: usize,
}

/// The most matrices of one [`Pool::run_columns`].
const MAX_MATRICES: usize = 4;

/// `total` things in a row, cut for `workers` workers into parts that get smaller: each round of parts takes half of
/// what is left. Long parts are streams through memory; short ones at the end let the workers finish together.
#[derive(Clone, Copy, Debug)]
struct Parts {
    total: usize,
    workers: usize,
}

impl Parts {
    fn count(self) -> usize {
        let (mut count, mut left) = (0, self.total);
        while left > 0 {
            let len = self.len(left);
            let parts = left.div_ceil(len).min(self.workers);
            count += parts;
            left -= (parts * len).min(left);
        }
        count
    }

    /// Part `i`, below [`Self::count`]: parts ascend without gaps.
    fn part(self, mut i: usize) -> Range<usize> {
        let mut left = self.total;
        loop {
            let len = self.len(left);
            let begin = self.total - left + i.min(self.workers) * len;
            if i < self.workers || len == 0 {
                return begin.min(self.total)..(begin + len).min(self.total);
            }
            i -= self.workers;
            left -= (self.workers * len).min(left);
        }
    }

    /// The length of the parts of the round in which `left` are left.
    fn len(self, left: usize) -> usize {
        (left / (2 * self.workers)).max(1).min(left)
    }
}

impl Pool {
    /// Shares out the columns of `matrices`, all with `rows` rows, in blocks of `block` (> 0) columns, the last block
    /// of a matrix possibly narrower. Calls `unit(m, tile)` for tiles that together cover every matrix `m` once.
    ///
    /// # Panics
    /// If there are more than 4 matrices or one is smaller than it should be.
    pub fn run_columns<'a>(
        &self,
        matrices: impl IntoIterator<Item = Columns<'a>>,
        rows: usize,
        block: usize,
        unit: impl Fn(usize, Tile<'_>) + Sync,
    ) {
        assert!(block > 0, "blocks of no columns");
        // Per matrix: its start, its stride, and its blocks in the numbering of all.
        let mut places = [const { (Matrix(std::ptr::null_mut()), 0, 0, 0) }; MAX_MATRICES];
        let (mut count, mut total) = (0, 0);
        for matrix in matrices {
            assert!(count < MAX_MATRICES, "more than {MAX_MATRICES} matrices");
            let needed = rows.checked_mul(matrix.stride);
            let (stride, len) = (matrix.stride, matrix.out.len());
            assert!(needed.is_some_and(|n| n <= len), "{rows} rows of {stride} in a buffer of {len}");
            let blocks = stride.div_ceil(block);
            places[count] = (Matrix(matrix.out.as_mut_ptr()), stride, total, total + blocks);
            count += 1;
            total += blocks;
        }
        let parts = Parts { total, workers: self.threads() };
        let places = &places[..count];
        self.run(parts.count(), &|i| {
            let part = parts.part(i);
            for (index, (matrix, stride, first, end)) in places.iter().enumerate() {
                let blocks = part.start.max(*first)..part.end.min(*end);
                if blocks.is_empty() {
                    continue;
                }
                // Parts do not overlap, so neither do the tiles; the matrix was checked to have the rows.
                let cols = (blocks.start - first) * block..((blocks.end - first) * block).min(*stride);
                let (own_rows, own_cols) = ((0, rows), (cols.start, cols.end));
                let (start, stride) = (matrix.0, *stride);
                unit(index, Tile { rows: 0..rows, cols, start, stride, own_rows, own_cols, _matrix: PhantomData });
            }
        });
    }

    /// Cuts `buffer` into chunks of `chunk_len` (> 0) elements, the last one possibly shorter, and calls
    /// `unit(i, chunk i)` for each.
    pub fn run_chunks<T: Send>(&self, buffer: &mut [T], chunk_len: usize, unit: impl Fn(usize, &mut [T]) + Sync) {
        let chunks = Chunks::new(buffer, chunk_len);
        // SAFETY: `run` calls each index once, so each chunk is taken once.
        self.run(chunks.count(), &|i| unit(i, unsafe { chunks.take(i) }));
    }

    /// Cuts the matrix `out` (rows of `stride` elements) into tiles and calls `unit` for each: part `p` of the rows is
    /// `row_starts[p] .. row_starts[p + 1]`, and the columns are cut every `cols_per_unit` (> 0), the last part
    /// possibly shorter. Tiles with the same columns are claimed one after the other.
    ///
    /// # Panics
    /// If `row_starts` descends anywhere or ends beyond the matrix.
    pub fn run_grid(
        &self,
        out: &mut [f32],
        stride: usize,
        row_starts: &[usize],
        cols_per_unit: usize,
        unit: impl Fn(Tile<'_>) + Sync,
    ) {
        assert!(cols_per_unit > 0, "cols_per_unit must not be 0");
        assert!(row_starts.is_sorted(), "row_starts must ascend");
        let end = row_starts.last().copied().unwrap_or(0);
        let needed = end.checked_mul(stride);
        assert!(needed.is_some_and(|n| n <= out.len()), "{end} rows of {stride} in a buffer of {}", out.len());
        let row_parts = row_starts.len().saturating_sub(1);
        let col_parts = stride.div_ceil(cols_per_unit);
        let matrix = Matrix(out.as_mut_ptr());
        let matrix = &matrix;
        self.run(row_parts * col_parts, &|i| {
            let (part, cols) = (i % row_parts, (i / row_parts) * cols_per_unit);
            let rows = row_starts[part]..row_starts[part + 1];
            let cols = cols..(cols + cols_per_unit).min(stride);
            let (own_rows, own_cols) = ((rows.start, rows.end), (cols.start, cols.end));
            unit(Tile { rows, cols, start: matrix.0, stride, own_rows, own_cols, _matrix: PhantomData });
        });
    }

    /// Calls `unit(i, chunk)` for each `i` in `0..indices.len()`, where the chunk is
    /// `buffer[indices[i] * chunk_len ..][.. chunk_len]` (`chunk_len` > 0).
    ///
    /// # Panics
    /// If `indices` does not ascend strictly, or a chunk is not whole inside the buffer.
    pub fn run_scattered<T: Send>(
        &self,
        buffer: &mut [T],
        chunk_len: usize,
        indices: &[u32],
        unit: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(indices.is_sorted_by(|a, b| a < b), "indices must ascend strictly");
        let chunks = Chunks::new(buffer, chunk_len);
        let whole = chunks.len / chunk_len;
        assert!(indices.last().is_none_or(|&last| (last as usize) < whole), "index beyond the buffer's {whole} chunks");
        // SAFETY: `run` calls each i once and the indices are all different, so each chunk is taken once.
        self.run(indices.len(), &|i| unit(i, unsafe { chunks.take(indices[i] as usize) }));
    }
}
