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
        // SAFETY: `run_grid` checked that the last row ends inside the matrix and that tiles do not overlap; `&mut
        // self` keeps a second reference into this tile away while the result lives.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride + begin), stop - begin) }
    }
}

/// The start of a matrix whose tiles are handed to different threads.
struct Matrix(*mut f32);

// SAFETY: only used to make tiles that do not overlap, one for each unit.
unsafe impl Sync for Matrix {}

impl Pool {
    /// Cuts `buffer` into chunks of `chunk_len` (> 0) elements, the last one possibly shorter, and calls
    /// `unit(i, chunk i)` for each.
    pub fn run_chunks<T: Send>(&self, buffer: &mut [T], chunk_len: usize, unit: impl Fn(usize, &mut [T]) + Sync) {
        let chunks = Chunks::new(buffer, chunk_len);
        // SAFETY: `run` calls each index once, so each chunk is taken once.
        self.run(chunks.count(), &|i| unit(i, unsafe { chunks.take(i) }));
    }

    /// [`Self::run_chunks`] over two buffers, each `(buffer, chunk_len)`, which must have equally many chunks.
    pub fn run_chunks2<A: Send, B: Send>(
        &self,
        a: (&mut [A], usize),
        b: (&mut [B], usize),
        unit: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (a, b) = (Chunks::new(a.0, a.1), Chunks::new(b.0, b.1));
        assert_eq!(a.count(), b.count(), "buffers with different numbers of chunks");
        // SAFETY: `run` calls each index once, so each chunk is taken once.
        self.run(a.count(), &|i| unit(i, unsafe { a.take(i) }, unsafe { b.take(i) }));
    }

    /// [`Self::run_chunks`] over three buffers, each `(buffer, chunk_len)`, which must have equally many chunks.
    pub fn run_chunks3<A: Send, B: Send, C: Send>(
        &self,
        a: (&mut [A], usize),
        b: (&mut [B], usize),
        c: (&mut [C], usize),
        unit: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
    ) {
        let (a, b, c) = (Chunks::new(a.0, a.1), Chunks::new(b.0, b.1), Chunks::new(c.0, c.1));
        assert!(a.count() == b.count() && b.count() == c.count(), "buffers with different numbers of chunks");
        // SAFETY: `run` calls each index once, so each chunk is taken once.
        self.run(a.count(), &|i| unit(i, unsafe { a.take(i) }, unsafe { b.take(i) }, unsafe { c.take(i) }));
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
