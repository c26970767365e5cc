use super::{PackError, PackedMatrix};
use crate::kernels::Isa;
use crate::ops::Ctx;
use crate::ops::embedding::gather;
use crate::ops::pool::Pool;
use crate::ops::test_weights::{Range, TYPES, decode, random_tensor};
use crate::ops::tests::TestRng;
use crate::quant::WeightType;

#[test]
fn mm_7_rows_come_back_from_the_panels_exactly() {
    let mut random = TestRng::new(20_261_123);
    for ty in TYPES {
        for (n, k) in [(1, 32), (32, 64), (33, 96), (70, 320)] {
            // Odd lengths where the type allows them.
            let k = if ty == WeightType::Q8_0 { k } else { k + 1 };
            let raw = random_tensor(&mut random, Range::Wild, ty, n, k);
            let packed = PackedMatrix::pack(ty, n, k, &raw).unwrap();
            let expected = decode(ty, &raw);
            for (row, expected) in expected.chunks(k).enumerate() {
                let mut found = vec![f32::NAN; k];
                packed.dequantize_row(row, &mut found);
                // Equal as numbers: 0 times a negative scale has no sign worth keeping.
                assert_eq!(found, expected, "{ty} N {n} K {k} row {row}");
            }
        }
    }
}

#[test]
fn mm_7_gather_returns_the_rows_asked_for() {
    let mut random = TestRng::new(20_261_123);
    let pool = Pool::new(3).unwrap();
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    for ty in TYPES {
        let raw = random_tensor(&mut random, Range::Plain, ty, 45, 64);
        let rows = decode(ty, &raw);
        let packed = PackedMatrix::pack(ty, 45, 64, &raw).unwrap();
        let ids = [44, 0, 7, 7, 31, 32];
        let mut found = vec![0.0; ids.len() * 64];
        gather(&ctx, &packed, &ids, &mut found);
        let expected: Vec<f32> = ids.iter().flat_map(|&id| rows[id as usize * 64..][..64].to_vec()).collect();
        assert_eq!(found, expected, "{ty}");
        gather(&ctx, &packed, &[], &mut []);
    }
}

#[test]
fn packed_size_is_that_of_the_file() {
    for ty in TYPES {
        let raw = vec![0; ty.row_bytes(256).unwrap() * 64];
        let packed = PackedMatrix::pack(ty, 64, 256, &raw).unwrap();
        assert_eq!(packed.bytes(), raw.len(), "{ty}");
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
