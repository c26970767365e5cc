//! The numbers of the specifications: every validation table that belongs to no other test.

mod example;
mod kv_cache;
mod model_files;
mod operations;
mod paths;
mod pipelines;
mod scheduler;
mod tokens;
