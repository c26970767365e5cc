//! What a trace is made from: the index of a model and a run, without what the run adds.

use super::index::{Index, RopeDescription};
use super::recorder::PRODUCER;
use crate::model::decoder::Decoder;
use crate::ops::rope::{Pairing, RopeTable};
use crate::types::TokenId;

/// How a traced model is run.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// Types of the weight matrices in lower case, joined by `+`.
    pub weights: &'a str,
    pub kv_type: String,
    /// Name of the instruction-set path.
    pub isa: String,
    pub prompt: &'a [TokenId],
}

/// The index of a run of `model` that has not begun.
pub fn describe(model: &Decoder, run: Circumstances<'_>) -> Index {
    let (config, rotation) = (model.config(), model.rotation());
    let local_table = rotation.as_ref().and_then(|rotation| rotation.local_table);
    let is_local = |layer: &usize| local_table.is_some() && config.description.window_of(*layer).is_some();
    let pairing = rotation.as_ref().map(|rotation| rotation.pairing);
    Index {
        producer: PRODUCER.into(),
        architecture: config.architecture.clone(),
        model: config.name.clone(),
        weights: run.weights.to_lowercase(),
        kv_type: run.kv_type,
        isa: Some(run.isa),
        prompt_tokens: run.prompt.into(),
        tokens: Vec::new(),
        heads: config.num_heads,
        kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        rope: rotation.as_ref().map(|rotation| describe_rotation(rotation.pairing, rotation.table)),
        rope_local: pairing.zip(local_table).map(|(pairing, table)| describe_rotation(pairing, table)),
        local_layers: (0..config.num_layers).filter(is_local).collect(),
        tensors: Vec::new(),
    }
}

fn describe_rotation(pairing: Pairing, table: &RopeTable) -> RopeDescription {
    let (frequencies, magnitude) = (table.frequencies().to_vec(), f64::from(table.magnitude()));
    RopeDescription { pairing, frequencies, magnitude }
}
