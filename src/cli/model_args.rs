//! `model_args`.
