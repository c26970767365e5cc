use super::{PackError, PackedMatrix};
use crate::kernels::Isa;
use crate::ops::Ctx;
use crate::ops::embedding::gather;
use crate::ops::pool::Pool;
use crate::ops::test_weights::{Range, decode, golden_blocks, integer_types, random_tensor};
use crate::ops::tests::TestRng;
use crate::quant::WeightType;

#[test]
fn mm_7_rows_come_back_from_the_panels_exactly() {
    covers!("MM-7");
    let mut random = TestRng::new(20_261_123);
    for ty in WeightType::ALL {
        for (n, k) in [(1, 32usize), (32, 64), (33, 96), (70, 320)] {
            // Odd lengths where the type allows them.
            let k = if ty.block_len() == 1 { k + 1 } else { k.next_multiple_of(ty.block_len()) };
            let raw = random_tensor(&mut random, Range::Wild, ty, n, k);
            let packed = PackedMatrix::pack(ty, n, k, &raw).unwrap();
            let expected = decode(ty, &raw);
            for (row, expected) in expected.chunks(k).enumerate() {
                for isa in Isa::available() {
                    let mut found = vec![f32::NAN; k];
                    packed.dequantize_row(isa, row, &mut found);
                    // Equal as numbers: 0 times a negative scale has no sign worth keeping.
                    assert_eq!(found, expected, "{ty} {isa:?} N {n} K {k} row {row}");
                }
            }
        }
    }
}

#[test]
fn mm_7_rows_are_those_of_the_gguf_package() {
    covers!("MM-7");
    for ty in integer_types() {
        // Each block is a row.
        let blocks = golden_blocks(ty);
        let raw: Vec<u8> = blocks.iter().flat_map(|(block, _)| block.clone()).collect();
        let packed = PackedMatrix::pack(ty, blocks.len(), ty.block_len(), &raw).unwrap();
        for (row, (_, expected)) in blocks.iter().enumerate() {
            let mut found = vec![f32::NAN; expected.len()];
            packed.dequantize_row(Isa::detect(), row, &mut found);
            assert_eq!(&found, expected, "{ty} block {row}");
        }
    }
}

#[test]
fn mm_7_gather_returns_the_rows_asked_for() {
    covers!("MM-7");
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(3).unwrap();
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    for ty in WeightType::ALL {
        let k = ty.block_len().max(64);
        let raw = random_tensor(&mut random, Range::Plain, ty, 45, k);
        let rows = decode(ty, &raw);
        let packed = PackedMatrix::pack(ty, 45, k, &raw).unwrap();
        let ids = [44, 0, 7, 7, 31, 32];
        let mut found = vec![0.0; ids.len() * k];
        gather(&ctx, &packed, &ids, &mut found);
        let expected: Vec<f32> = ids.iter().flat_map(|&id| rows[id as usize * k..][..k].to_vec()).collect();
        assert_eq!(found, expected, "{ty}");
        gather(&ctx, &packed, &[], &mut []);
    }
}

#[test]
fn packed_size_is_at_most_6_percent_above_the_file() {
    for ty in WeightType::ALL {
        let raw = vec![0; ty.row_bytes(256).unwrap() * 64];
        let packed = PackedMatrix::pack(ty, 64, 256, &raw).unwrap();
        let ratio = packed.bytes() as f64 / raw.len() as f64;
        assert!((1.0..1.06).contains(&ratio), "{ty}: {ratio}");
        assert_eq!((packed.n(), packed.k(), packed.ty()), (64, 256, ty));
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let error = |ty, n, k, bytes: usize| PackedMatrix::pack(ty, n, k, &vec![0; bytes]).err().map(|e| e.to_string());
    let text = |text: &str| Some(text.to_owned());
    let (q8, f32) = (WeightType::Q8_0, WeightType::F32);
    assert_eq!(error(q8, 1, 33, 34), text("Q8_0 matrix [1, 33]: rows must be a multiple of 32 elements"));
    assert_eq!(error(f32, 2, 3, 23), text("F32 matrix [2, 3]: 24 bytes expected, 23 found"));
    let shape = "no rows or no columns, or too large for this machine";
    assert_eq!(error(f32, 0, 3, 0), text(&format!("F32 matrix [0, 3]: {shape}")));
    assert_eq!(error(f32, 3, 0, 0), text(&format!("F32 matrix [3, 0]: {shape}")));
    assert_eq!(
        PackedMatrix::pack(f32, usize::MAX, 4, &[]).err(),
        Some(PackError::Shape { ty: f32, n: usize::MAX, k: 4 })
    );
}
