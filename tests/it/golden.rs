//! golden
mod cases;
