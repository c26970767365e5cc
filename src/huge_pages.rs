//! Large buffers in huge pages, where the system grants them.
//!
//! A stream through a gigabyte of weights touches a new page of 4 KiB every few hundred cycles, and the hardware
//! prefetcher stops at each; pages of 2 MiB are asked for by `madvise(MADV_HUGEPAGE)` (transparent huge pages). That
//! they are not granted costs speed and nothing else.

use bytemuck::{Pod, Zeroable};
use memmap2::{Advice, MmapMut};

/// Buffers from this size on are mapped by themselves.
const LARGE: usize = 2 << 20;

/// The unit of allocation and the alignment.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// Bytes, zero at first, aligned to 64.
pub struct HugeBuffer(Storage);

enum Storage {
    Small(Vec<CacheLine>),
    Mapped(MmapMut),
}

/// There is no memory for a buffer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no memory for {bytes} bytes")]
pub struct OutOfMemory {
    pub bytes: usize,
}

impl HugeBuffer {
    /// A buffer of at least `bytes` bytes: rounded up to whole cache lines.
    pub fn zeroed(bytes: usize) -> Result<Self, OutOfMemory> {
        let lines = bytes.div_ceil(size_of::<CacheLine>());
        if bytes >= LARGE {
            let rounded = lines.checked_mul(size_of::<CacheLine>()).ok_or(OutOfMemory { bytes })?;
            let map = MmapMut::map_anon(rounded).map_err(|_| OutOfMemory { bytes })?;
            let _ = map.advise(Advice::HugePage);
            return Ok(Self(Storage::Mapped(map)));
        }
        let mut small = Vec::new();
        small.try_reserve_exact(lines).map_err(|_| OutOfMemory { bytes })?;
        small.resize(lines, CacheLine([0; 64]));
        Ok(Self(Storage::Small(small)))
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Storage::Small(lines) => bytemuck::cast_slice(lines),
            Storage::Mapped(map) => map,
        }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Storage::Small(lines) => bytemuck::cast_slice_mut(lines),
            Storage::Mapped(map) => map,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_are_aligned_zeroed_and_writable() {
        for bytes in [0, 1, 64, 65, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 70] {
            let mut buffer = HugeBuffer::zeroed(bytes).unwrap();
            assert_eq!(buffer.bytes().len(), bytes.next_multiple_of(64), "{bytes}");
            assert!(buffer.bytes().as_ptr().addr().is_multiple_of(64), "{bytes}");
            assert!(buffer.bytes().iter().all(|b| *b == 0), "{bytes}");
            buffer.bytes_mut().fill(7);
            assert!(buffer.bytes().iter().all(|b| *b == 7), "{bytes}");
        }
    }

    #[test]
    fn what_cannot_be_allocated_is_an_error() {
        assert_eq!(HugeBuffer::zeroed(usize::MAX).err(), Some(OutOfMemory { bytes: usize::MAX }));
        let bytes = isize::MAX as usize / 2;
        assert_eq!(HugeBuffer::zeroed(bytes).err(), Some(OutOfMemory { bytes }));
    }
}
