//! The sizes of a model: GGUF keys translated to names, once.
