//! A file mapped into memory, read-only. The only `unsafe` of this module.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

/// A mapped regular file.
#[derive(Debug)]
pub(super) struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps the whole file.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only and only ever read as plain bytes, for which every bit pattern is valid. Another
        // process may still change or cut the file: what must not change under us (the header) is copied before it is
        // validated, and weights are numbers whose values cannot lead to undefined behaviour. A file cut while mapped
        // raises SIGBUS, which ends the process; `specs/gguf.md` says so.
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self(map))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Tells the kernel that whole pages inside `start .. start + len` are not needed soon. They are read from the file
    /// again when touched. A failure only means that memory is not given back, so it is ignored.
    pub(super) fn release(&self, start: usize, len: usize) {
        const PAGE: usize = 4096;
        let Some(end) = start.checked_add(len).filter(|&end| end <= self.0.len()) else { return };
        let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if start >= end {
            return;
        }
        // SAFETY: the range lies inside the map, and the map is file-backed and never written, so pages that are
        // dropped come back with the file's content.
        let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
    }
}
