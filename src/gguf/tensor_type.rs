//! The tensor types a GGUF file can name: all of ggml's, so that an error can name a type we do not compute with.

use crate::quant::WeightType;

/// How ggml stores one type: blocks of `block_len` elements in `block_bytes` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// The number in the file.
    pub id: u32,
    /// ggml's name, as llama.cpp prints it.
    pub name: &'static str,
    /// Elements of a block; a row is a whole number of blocks.
    pub block_len: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

const fn t(id: u32, name: &'static str, block_len: u64, block_bytes: u64) -> TensorType {
    TensorType { id, name, block_len, block_bytes }
}

/// Ascending ids. Ids 4, 5, 31..=33 and 36..=38 named formats that ggml removed; they are unknown types here.
static TYPES: &[TensorType] = &[
    t(0, "F32", 1, 4),
    t(1, "F16", 1, 2),
    t(2, "Q4_0", 32, 18),
    t(3, "Q4_1", 32, 20),
    t(6, "Q5_0", 32, 22),
    t(7, "Q5_1", 32, 24),
    t(8, "Q8_0", 32, 34),
    t(9, "Q8_1", 32, 36),
    t(10, "Q2_K", 256, 84),
    t(11, "Q3_K", 256, 110),
    t(12, "Q4_K", 256, 144),
    t(13, "Q5_K", 256, 176),
    t(14, "Q6_K", 256, 210),
    t(15, "Q8_K", 256, 292),
    t(16, "IQ2_XXS", 256, 66),
    t(17, "IQ2_XS", 256, 74),
    t(18, "IQ3_XXS", 256, 98),
    t(19, "IQ1_S", 256, 50),
    t(20, "IQ4_NL", 32, 18),
    t(21, "IQ3_S", 256, 110),
    t(22, "IQ2_S", 256, 82),
    t(23, "IQ4_XS", 256, 136),
    t(24, "I8", 1, 1),
    t(25, "I16", 1, 2),
    t(26, "I32", 1, 4),
    t(27, "I64", 1, 8),
    t(28, "F64", 1, 8),
    t(29, "IQ1_M", 256, 56),
    t(30, "BF16", 1, 2),
    t(34, "TQ1_0", 256, 54),
    t(35, "TQ2_0", 256, 66),
    t(39, "MXFP4", 32, 17),
    t(40, "NVFP4", 64, 36),
    t(41, "Q1_0", 128, 18),
    t(42, "Q2_0", 64, 18),
];

impl TensorType {
    /// The type with this number; `None` where the number is unknown or its format was removed from ggml.
    pub fn from_id(id: u32) -> Option<&'static TensorType> {
        let index = TYPES.binary_search_by_key(&id, |t| t.id).ok()?;
        TYPES.get(index)
    }

    /// The type we compute with, if we do.
    pub fn weight_type(&self) -> Option<WeightType> {
        WeightType::ALL.into_iter().find(|ty| ggml_type(*ty) == self.id)
    }

    /// Bytes of a tensor of these dimensions (fastest first); `None` where the row is no whole number of blocks or a
    /// product overflows.
    pub fn tensor_bytes(&self, dims: &[u64]) -> Option<u64> {
        let row = *dims.first()?;
        if !row.is_multiple_of(self.block_len) {
            return None;
        }
        let row_bytes = (row / self.block_len).checked_mul(self.block_bytes)?;
        dims.iter().skip(1).try_fold(row_bytes, |bytes, &dim| bytes.checked_mul(dim))
    }
}

/// The number of a type we compute with, as GGUF stores it.
pub fn ggml_type(ty: WeightType) -> u32 {
    match ty {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q5_0 => 6,
        WeightType::Q5_1 => 7,
        WeightType::IQ4NL => 20,
        WeightType::MXFP4 => 39,
        WeightType::Q8_0 => 8,
        WeightType::BF16 => 30,
        WeightType::Q2K => 10,
        WeightType::Q3K => 11,
        WeightType::Q4K => 12,
        WeightType::Q5K => 13,
        WeightType::Q6K => 14,
        WeightType::IQ4XS => 23,
    }
}

/// The number of a file of mostly this type in `general.file_type`, as llama.cpp counts them.
pub fn file_type(ty: WeightType) -> u32 {
    match ty {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q5_0 => 8,
        WeightType::Q5_1 => 9,
        WeightType::IQ4NL => 25,
        WeightType::MXFP4 => 38,
        WeightType::Q8_0 => 7,
        WeightType::BF16 => 32,
        WeightType::Q2K => 10,
        WeightType::Q3K => 11,
        WeightType::Q4K => 14,
        WeightType::Q5K => 16,
        WeightType::Q6K => 18,
        WeightType::IQ4XS => 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sorted_so_that_the_search_finds_all() {
        for t in TYPES {
            assert_eq!(TensorType::from_id(t.id), Some(t));
        }
        for removed in [4, 5, 31, 32, 33, 36, 37, 38, 255, u32::MAX] {
            assert_eq!(TensorType::from_id(removed), None);
        }
    }

    #[test]
    fn weight_types_agree_with_the_table() {
        for ty in WeightType::ALL {
            let t = TensorType::from_id(ggml_type(ty)).expect("in the table");
            assert_eq!(t.weight_type(), Some(ty));
            assert_eq!(t.name, ty.to_string());
            assert_eq!((t.block_len, t.block_bytes), (ty.block_len() as u64, ty.block_bytes() as u64));
        }
    }

    #[test]
    fn tensor_bytes_checks_blocks_and_products() {
        let q8 = TensorType::from_id(8).expect("Q8_0");
        assert_eq!(q8.tensor_bytes(&[64, 3]), Some(2 * 34 * 3));
        assert_eq!(q8.tensor_bytes(&[48, 3]), None);
        assert_eq!(q8.tensor_bytes(&[1 << 62, 1 << 5]), None);
        assert_eq!(q8.tensor_bytes(&[]), None);
    }
}
