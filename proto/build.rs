//! Compiles the protos without `protoc`: protox parses, prost and tonic generate. The descriptor set serves reflection.

use std::error::Error;
use std::path::PathBuf;

const PROTOS: [&str; 3] =
    ["proto/llorch/v1/inference.proto", "proto/llorch/v1/tokenizer.proto", "proto/llorch/v1/control.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("llorch_descriptor.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
