//! `sampling`.
pub mod params;
