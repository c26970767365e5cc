//! Raw headers, built byte by byte: the project's own writer refuses to lie about lengths and counts.

/// A header in the making; every number is written as given.
#[derive(Clone)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic, version 3 and the two counts.
    pub fn new(num_tensors: u64, num_keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(num_tensors).u64(num_keys)
    }

    pub fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }

    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn text(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        self.u64(text.len() as u64).raw(text)
    }

    /// A key with a u32.
    pub fn key_u32(self, key: &str, value: u32) -> Self {
        self.text(key).u32(4).u32(value)
    }

    /// The head of an array: key, type "array", element type, length.
    pub fn array(self, key: &str, of: u32, len: u64) -> Self {
        self.text(key).u32(9).u32(of).u64(len)
    }

    /// A line of the tensor table.
    pub fn tensor(self, name: impl AsRef<[u8]>, dims: &[u64], ty: u32, offset: u64) -> Self {
        let counted = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(counted, |raw, &dim| raw.u64(dim)).u32(ty).u64(offset)
    }

    /// Zeros up to the next multiple of 32, then `count` more.
    pub fn data(mut self, count: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + count, 0);
        self
    }

    /// The bytes, followed by enough zeros that "too few bytes left" is not what is wrong.
    pub fn padded(self) -> Vec<u8> {
        self.data(4096).0
    }
}
