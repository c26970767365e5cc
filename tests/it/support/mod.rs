//! What several topics share.

pub mod fake_model;
pub mod random;
