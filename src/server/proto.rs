//! The code generated from `proto/llorch/v1`, and the descriptors for reflection.
#![allow(clippy::all, clippy::pedantic, missing_docs)]

tonic::include_proto!("llorch.v1");

/// All messages and services, as reflection serves them.
pub(crate) const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("llorch_descriptor");
