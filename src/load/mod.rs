//! The load tester behind `bench serve`: plans requests, sends them, records what came when, and sums it up.
//!
//! `workload` and `arrivals` decide what is sent and when, from a seed and before anything is sent; `client` sends one
//! request and records it; `run` drives the plan in a closed or an open loop; `summary` and `verdict` turn records into
//! figures; `report_*` write them. Latency counts from the time a request was to be sent (`specs/load-tester.md`).

pub mod arrivals;
mod chart;
pub mod client;
pub mod error;
pub mod random;
pub mod record;
pub mod report_html;
pub mod report_json;
pub mod report_text;
pub mod run;
pub mod statistics;
pub mod summary;
pub mod transparency;
pub mod verdict;
pub mod workload;
