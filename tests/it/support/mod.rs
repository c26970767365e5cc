//! What several topics share.

pub mod client;
pub mod fake_model;
pub mod http;
pub mod load;
pub mod process;
pub mod random;
pub mod raw_http2;
pub mod recording_model;
pub mod run_model;

use llorch_cpud::kernels::Isa;

/// The instruction-set paths to test: all this CPU has, or the one `LLORCH_TEST_ISA` names.
pub fn isas() -> Vec<Isa> {
    match std::env::var("LLORCH_TEST_ISA") {
        Ok(name) => vec![name.parse().expect("LLORCH_TEST_ISA names a path this CPU has")],
        Err(_) => Isa::available(),
    }
}
