//! The storage of the paged KV cache.

/// The storage of K and V for every block of the pool.
pub struct KvCache {}
