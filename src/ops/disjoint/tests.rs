use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The message of the panic that `f` must end in.
fn panic_of(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("no panic");
    match panic.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => (*panic.downcast_ref::<&str>().unwrap()).into(),
    }
}

#[test]
fn chunks_cover_the_buffer_once() {
    for threads in 1..=3 {
        let pool = Pool::new(threads).unwrap();
        for (len, chunk_len) in [(0, 4), (1, 4), (4, 4), (13, 4), (13, 1), (13, 20)] {
            let mut buffer = vec![0usize; len];
            pool.run_chunks(&mut buffer, chunk_len, |i, chunk| {
                assert!(chunk.len() == chunk_len || i == len / chunk_len);
                chunk.iter_mut().for_each(|x| *x += i + 1);
            });
            let expected: Vec<usize> = (0..len).map(|x| x / chunk_len + 1).collect();
            assert_eq!(buffer, expected, "len {len} chunk {chunk_len}");
        }
    }
}

#[test]
fn columns_of_several_matrices_are_covered_once() {
    for threads in 1..4 {
        let pool = Pool::new(threads).unwrap();
        for (rows, strides) in [(1, [64, 1, 130]), (3, [33, 32, 31]), (2, [0, 0, 500]), (0, [40, 1, 2])] {
            let mut buffers = strides.map(|stride| vec![0f32; rows * stride + 5]);
            let matrices = buffers.iter_mut().zip(strides).map(|(out, stride)| Columns { out, stride });
            pool.run_columns(matrices, rows, 32, |m, mut tile| {
                assert!(tile.cols.start.is_multiple_of(32) && tile.cols.end <= strides[m]);
                for row in 0..rows {
                    tile.row_mut(row).iter_mut().for_each(|x| *x += (m + 1) as f32);
                }
            });
            for (m, buffer) in buffers.iter().enumerate() {
                let (inside, after) = buffer.split_at(rows * strides[m]);
                assert!(inside.iter().all(|x| *x == (m + 1) as f32), "{rows} rows, matrix {m}, {threads} threads");
                assert!(after.iter().all(|x| *x == 0.0));
            }
        }
    }
}

#[test]
fn parts_ascend_without_gaps_and_get_smaller() {
    for workers in [1, 2, 3, 64] {
        for total in [0, 1, 2, 5, 64, 176, 1000, 4001] {
            let parts = Parts { total, workers };
            let (mut end, mut previous) = (0, usize::MAX);
            for i in 0..parts.count() {
                let part = parts.part(i);
                assert!(part.start == end && !part.is_empty() && part.len() <= previous, "{parts:?} {i} {part:?}");
                (end, previous) = (part.end, part.len());
            }
            assert_eq!(end, total, "{parts:?}");
        }
    }
}

#[test]
fn columns_beyond_a_matrix_are_refused() {
    let pool = Pool::new(2).unwrap();
    let mut out = vec![0f32; 12];
    let refused =
        |out: &mut [f32], stride, rows| panic_of(|| pool.run_columns([Columns { out, stride }], rows, 32, |_, _| ()));
    assert!(refused(&mut out, 5, 3).contains("3 rows of 5"));
    assert!(refused(&mut out, usize::MAX, 2).contains("2 rows of"));
    let five = (0..5).map(|_| Columns { out: &mut [], stride: 0 });
    assert!(panic_of(|| pool.run_columns(five, 1, 32, |_, _| ())).contains("more than 4 matrices"));
}

#[test]
fn a_grid_covers_its_rows_once() {
    for threads in 1..=3 {
        let pool = Pool::new(threads).unwrap();
        let mut out = vec![0f32; 6 * 7];
        pool.run_grid(&mut out, 7, &[1, 1, 3, 4, 6], 3, |mut tile| {
            assert!(tile.cols.start % 3 == 0);
            for row in tile.rows.clone() {
                let first = tile.cols.start;
                for (i, x) in tile.row_mut(row).iter_mut().enumerate() {
                    *x += (row * 7 + first + i) as f32;
                }
            }
        });
        for (i, x) in out.iter().enumerate() {
            assert_eq!(*x, if i < 7 { 0.0 } else { i as f32 });
        }
    }
}

#[test]
fn a_grid_that_would_overlap_or_overrun_is_refused() {
    let pool = Pool::new(2).unwrap();
    let mut out = vec![0f32; 12];
    assert!(panic_of(|| pool.run_grid(&mut out, 3, &[0, 3, 2, 4], 3, |_| ())).contains("must ascend"));
    assert!(panic_of(|| pool.run_grid(&mut out, 3, &[0, 5], 3, |_| ())).contains("5 rows of 3"));
    assert!(panic_of(|| pool.run_grid(&mut out, usize::MAX, &[0, 2], usize::MAX, |_| ())).contains("2 rows of"));
    assert!(panic_of(|| pool.run_grid(&mut out, 3, &[0, 4], 0, |_| ())).contains("cols_per_unit"));
    let outside = panic_of(|| {
        pool.run_grid(&mut out, 3, &[0, 2, 4], 3, |mut tile| {
            tile.rows = 0..4;
            for row in tile.rows.clone() {
                tile.row_mut(row).fill(1.0);
            }
        });
    });
    assert!(outside.contains("of a tile with rows"), "{outside}");
    pool.run_grid(&mut out, 3, &[], 3, |_| unreachable!());
}

#[test]
fn scattered_chunks_are_the_indexed_ones() {
    let pool = Pool::new(3).unwrap();
    let mut buffer = vec![0u32; 20];
    pool.run_scattered(&mut buffer, 3, &[0, 2, 5], |i, chunk| {
        assert_eq!(chunk.len(), 3);
        chunk.fill(i as u32 + 1);
    });
    let mut expected = [0; 20];
    expected[0..3].fill(1);
    expected[6..9].fill(2);
    expected[15..18].fill(3);
    assert_eq!(buffer, expected);
}

#[test]
fn scattered_indices_that_repeat_descend_or_overrun_are_refused() {
    let pool = Pool::new(2).unwrap();
    let mut buffer = vec![0u32; 20];
    for indices in [&[1, 1][..], &[2, 1], &[0, 3, 3]] {
        assert!(panic_of(|| pool.run_scattered(&mut buffer, 3, indices, |_, _| ())).contains("ascend strictly"));
    }
    // Chunk 6 would be elements 18..21: not whole.
    assert!(panic_of(|| pool.run_scattered(&mut buffer, 3, &[6], |_, _| ())).contains("beyond the buffer"));
    assert!(panic_of(|| pool.run_scattered(&mut buffer, 0, &[], |_, _| ())).contains("chunk_len"));
}
