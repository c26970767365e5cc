//! The load tester behind `bench serve`: plans requests, sends them, records what came when, and sums it up.
//!
//! `workload` and `arrivals` decide what is sent and when, from a seed and before anything is sent; `target` sends one
//! request and records it, over gRPC (`client`) or HTTP (`http_client`); `run` drives the plan in a closed or an open
//! loop; `limits` is how long is waited for a target and how much is taken of it; `summary` and `verdict` turn records
//! into figures; `report_*` write them. `sweep` is a series of runs under rising load. Latency counts from the time a
//! request was to be sent (`specs/load-tester.md`).

pub mod arrivals;
mod chart;
pub mod client;
pub mod error;
mod http_api;
pub mod http_client;
pub mod limits;
pub mod random;
pub mod record;
pub mod report_html;
pub mod report_json;
pub mod report_text;
pub mod run;
mod sse;
pub mod statistics;
pub mod summary;
pub mod sweep;
pub mod sweep_html;
pub mod sweep_report;
pub mod target;
pub mod transparency;
pub mod verdict;
pub mod workload;
