//! The engine: a synchronous step, and the actor thread that drives it.

pub mod request;
