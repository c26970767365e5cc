//! `index.json`: what a trace was made from, and its tensors.

use super::names::{Name, Shape};
use super::npy::data_bytes;
pub use crate::ops::rope::Pairing;
use crate::types::TokenId;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The number of the layout this build reads and writes.
pub const FORMAT: u64 = 1;

/// Above any size of a model or a trace; it keeps arithmetic in range.
const MAX_SIZE: u64 = u32::MAX as u64;

/// The description of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Who made it, and which version.
    pub producer: String,
    /// `general.architecture` of the model.
    pub architecture: String,
    /// The model's name.
    pub model: String,
    /// The types of the weight matrices in lower case, joined by `+`.
    pub weights: String,
    /// The type of the cached K and V.
    pub kv_type: String,
    /// The instruction-set path; our own traces alone have one.
    pub isa: Option<String>,
    pub prompt_tokens: Vec<TokenId>,
    /// Generated tokens, at least one.
    pub tokens: Vec<TokenId>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// How Q and K are rotated; our own traces of models that rotate have it.
    pub rope: Option<RopeDescription>,
    /// How the layers `local_layers` rotate, where that is another way.
    pub rope_local: Option<RopeDescription>,
    pub local_layers: Vec<usize>,
    pub tensors: Vec<Entry>,
}

/// A rotation: dimension pairs of a head, turned by an angle of `frequency * position`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeDescription {
    pub pairing: Pairing,
    /// Radians a position, one a pair: half as many as dimensions that rotate.
    pub frequencies: Vec<f64>,
    /// Sine and cosine are multiplied by it.
    pub magnitude: f64,
}

/// A tensor of the trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub file: String,
    pub name: Name,
    /// From 0; `None` for what has no layer.
    pub layer: Option<usize>,
    pub shape: Vec<usize>,
    /// Relative to the largest magnitude of the tensor; absent where equality is asked for.
    pub tolerance: Option<f64>,
    /// Why a reference needs a wider tolerance than the checkpoint's. Without it `tolerance` is only a note.
    pub tolerance_reason: Option<String>,
}

/// A text that is no index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    #[error("not JSON: {0}")]
    Json(String),
    #[error("format {0} is unknown; this build reads {FORMAT}")]
    Format(String),
    #[error("key {key}: {problem}")]
    Key { key: String, problem: &'static str },
    #[error("tensor {tensor}: {problem}")]
    Tensor { tensor: String, problem: String },
}

impl Entry {
    /// The dtype that the name asks for.
    pub fn dtype(&self) -> &'static str {
        if self.name.shape() == Shape::Ids { "i32" } else { "f32" }
    }
}

impl Index {
    /// Positions computed: all but the last generated token.
    pub fn positions(&self) -> usize {
        (self.prompt_tokens.len() + self.tokens.len()).saturating_sub(1)
    }

    /// The rotation of a layer.
    pub fn rope_of(&self, layer: usize) -> Option<&RopeDescription> {
        if self.local_layers.contains(&layer) { self.rope_local.as_ref() } else { self.rope.as_ref() }
    }

    pub fn find(&self, name: Name, layer: Option<usize>) -> Option<&Entry> {
        self.tensors.iter().find(|entry| (entry.name, entry.layer) == (name, layer))
    }

    /// The shape of `name`; `None` stands for a size that only the model knows.
    fn shape(&self, name: Name) -> Vec<Option<usize>> {
        let (t, n) = (Some(self.positions()), Some(self.tokens.len()));
        match name.shape() {
            Shape::Hidden | Shape::Logits => vec![t, None],
            Shape::Heads => vec![t, self.heads.checked_mul(self.head_dim)],
            Shape::KvHeads => vec![t, self.kv_heads.checked_mul(self.head_dim)],
            Shape::Scores => vec![t, Some(self.heads), t],
            Shape::Selected => vec![n, None],
            Shape::Ids => vec![n],
        }
    }

    /// Reads the text of `index.json`.
    pub fn parse(text: &str) -> Result<Self, IndexError> {
        let value: Value = serde_json::from_str(text).map_err(|e| IndexError::Json(e.to_string()))?;
        let object = Object::of(&value, "index.json")?;
        if object.get("format")?.as_u64() != Some(FORMAT) {
            let shown: String = object.get("format")?.to_string().chars().take(64).collect();
            return Err(IndexError::Format(shown));
        }
        let mut index = Self {
            producer: object.text("producer")?,
            architecture: object.text("architecture")?,
            model: object.text("model")?,
            weights: object.text("weights")?,
            kv_type: object.text("kv_type")?,
            isa: object.optional("isa").map(|_| object.text("isa")).transpose()?,
            prompt_tokens: object.token_ids("prompt_tokens")?,
            tokens: object.token_ids("tokens")?,
            heads: object.size("heads")?,
            kv_heads: object.size("kv_heads")?,
            head_dim: object.size("head_dim")?,
            rope: object.rope("rope")?,
            rope_local: object.rope("rope_local")?,
            local_layers: match object.optional("local_layers") {
                Some(_) => object.numbers("local_layers", MAX_SIZE)?.into_iter().map(|n| n as usize).collect(),
                None => Vec::new(),
            },
            tensors: Vec::new(),
        };
        for rope in [&index.rope, &index.rope_local].into_iter().flatten() {
            if 2 * rope.frequencies.len() > index.head_dim {
                return Err(bad_key("rope.dimensions", "is more than head_dim"));
            }
        }
        let mut seen = BTreeSet::new();
        for value in object.array("tensors")? {
            let entry = index.entry(value)?;
            if !seen.insert((entry.name, entry.layer)) {
                return Err(bad_tensor(&entry.file, "its name and layer occur twice"));
            }
            index.tensors.push(entry);
        }
        Ok(index)
    }

    /// Checks one element of `tensors` against what the other keys say.
    fn entry(&self, value: &Value) -> Result<Entry, IndexError> {
        let object = Object::of(value, "tensors")?;
        let file = object.text("file")?;
        // A file of the trace's own folder, and nothing else.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if file.is_empty() || file.starts_with('.') || !file.chars().all(plain) {
            return Err(bad_tensor(&file, "file is no plain name of letters, digits, dots, dashes"));
        }
        let name = object.text("name")?;
        let name = Name::find(&name).ok_or_else(|| bad_tensor(&file, format!("the name {name:?} is unknown")))?;
        if object.size("checkpoint")? != usize::from(name.checkpoint()) {
            return Err(bad_tensor(&file, format!("{} belongs to checkpoint {}", name.as_str(), name.checkpoint())));
        }
        let layer = object.optional("layer").map(|_| object.number("layer", MAX_SIZE)).transpose()?;
        if layer.is_some() != name.is_of_a_layer() {
            return Err(bad_tensor(&file, if layer.is_some() { "it has no layer" } else { "its layer is missing" }));
        }
        let shape: Vec<usize> = object.numbers("shape", MAX_SIZE)?.into_iter().map(|n| n as usize).collect();
        let expected = self.shape(name);
        let fits = shape.len() == expected.len() && shape.iter().zip(&expected).all(|(n, e)| e.is_none_or(|e| e == *n));
        if !fits || shape.contains(&0) || data_bytes(&shape).is_none() {
            let expected: Vec<String> = expected.iter().map(|n| n.map_or("?".into(), |n| n.to_string())).collect();
            return Err(bad_tensor(&file, format!("shape {shape:?}, expected [{}]", expected.join(", "))));
        }
        let entry = Entry {
            file,
            name,
            layer: layer.map(|n| n as usize),
            shape,
            tolerance: object.optional("tolerance").map(|_| object.finite("tolerance")).transpose()?,
            tolerance_reason: object
                .optional("tolerance_reason")
                .map(|_| object.text("tolerance_reason"))
                .transpose()?,
        };
        if object.text("dtype")? != entry.dtype() {
            return Err(bad_tensor(&entry.file, format!("dtype of {} is {}", name.as_str(), entry.dtype())));
        }
        if entry.tolerance.is_some_and(|t| t < 0.0) {
            return Err(bad_tensor(&entry.file, "tolerance is negative"));
        }
        Ok(entry)
    }

    /// The text of `index.json`.
    pub fn to_json(&self) -> String {
        let tensor = |entry: &Entry| {
            let mut object = json!({
                "file": entry.file, "name": entry.name.as_str(), "checkpoint": entry.name.checkpoint(),
                "layer": entry.layer, "shape": entry.shape, "dtype": entry.dtype(), "tolerance": entry.tolerance,
            });
            if let Some(reason) = &entry.tolerance_reason {
                object["tolerance_reason"] = json!(reason);
            }
            object
        };
        let mut object = json!({
            "format": FORMAT, "producer": self.producer, "architecture": self.architecture, "model": self.model,
            "weights": self.weights, "kv_type": self.kv_type,
            "prompt_tokens": self.prompt_tokens, "tokens": self.tokens,
            "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim,
            "rope": self.rope.as_ref().map(RopeDescription::to_json),
            "tensors": self.tensors.iter().map(tensor).collect::<Vec<_>>(),
        });
        if let Some(isa) = &self.isa {
            object["isa"] = json!(isa);
        }
        if let Some(rope) = &self.rope_local {
            object["rope_local"] = rope.to_json();
        }
        if !self.local_layers.is_empty() {
            object["local_layers"] = json!(self.local_layers);
        }
        format!("{object:#}\n")
    }
}

impl RopeDescription {
    fn to_json(&self) -> Value {
        let pairing = if self.pairing == Pairing::Adjacent { "adjacent" } else { "halves" };
        json!({
            "pairing": pairing, "dimensions": 2 * self.frequencies.len(),
            "frequencies": self.frequencies, "magnitude": self.magnitude,
        })
    }
}

fn bad_tensor(file: &str, problem: impl Into<String>) -> IndexError {
    IndexError::Tensor { tensor: file.chars().take(64).collect(), problem: problem.into() }
}

/// A JSON object whose keys are read with their types checked. An absent key and null are the same.
struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    fn of(value: &'a Value, key: &str) -> Result<Self, IndexError> {
        value.as_object().map(Self).ok_or_else(|| bad_key(key, "is no object"))
    }

    fn optional(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn get(&self, key: &str) -> Result<&'a Value, IndexError> {
        self.optional(key).ok_or_else(|| bad_key(key, "is missing"))
    }

    fn text(&self, key: &str) -> Result<String, IndexError> {
        self.get(key)?.as_str().map(str::to_owned).ok_or_else(|| bad_key(key, "is no text"))
    }

    fn array(&self, key: &str) -> Result<&'a Vec<Value>, IndexError> {
        self.get(key)?.as_array().ok_or_else(|| bad_key(key, "is no array"))
    }

    fn finite(&self, key: &str) -> Result<f64, IndexError> {
        let value = self.get(key)?.as_f64().filter(|x| x.is_finite());
        value.ok_or_else(|| bad_key(key, "is no finite number"))
    }

    fn number(&self, key: &str, max: u64) -> Result<u64, IndexError> {
        let value = self.get(key)?.as_u64().filter(|n| *n <= max);
        value.ok_or_else(|| bad_key(key, "is no whole number in range"))
    }

    /// A number above 0.
    fn size(&self, key: &str) -> Result<usize, IndexError> {
        match self.number(key, MAX_SIZE)? {
            0 => Err(bad_key(key, "must not be zero")),
            n => Ok(n as usize),
        }
    }

    fn numbers(&self, key: &str, max: u64) -> Result<Vec<u64>, IndexError> {
        let number = |value: &Value| value.as_u64().filter(|n| *n <= max);
        let numbers: Option<Vec<u64>> = self.array(key)?.iter().map(number).collect();
        numbers.ok_or_else(|| bad_key(key, "has an element that is no whole number in range"))
    }

    /// At least one token id.
    fn token_ids(&self, key: &str) -> Result<Vec<TokenId>, IndexError> {
        let ids = self.numbers(key, i32::MAX as u64)?;
        if ids.is_empty() { Err(bad_key(key, "is empty")) } else { Ok(ids.into_iter().map(|id| id as u32).collect()) }
    }

    fn rope(&self, key: &str) -> Result<Option<RopeDescription>, IndexError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        let object = Self::of(value, key)?;
        let pairing = match object.text("pairing")?.as_str() {
            "adjacent" => Pairing::Adjacent,
            "halves" => Pairing::Halves,
            _ => return Err(bad_key("rope.pairing", "is neither adjacent nor halves")),
        };
        let frequency = |value: &Value| value.as_f64().filter(|x| x.is_finite());
        let frequencies: Option<Vec<f64>> = object.array("frequencies")?.iter().map(frequency).collect();
        let frequencies =
            frequencies.ok_or_else(|| bad_key("rope.frequencies", "has an element that is no finite number"))?;
        if frequencies.is_empty() || object.size("dimensions")? != 2 * frequencies.len() {
            return Err(bad_key("rope.dimensions", "is not twice the number of frequencies"));
        }
        Ok(Some(RopeDescription { pairing, frequencies, magnitude: object.finite("magnitude")? }))
    }
}

fn bad_key(key: &str, problem: &'static str) -> IndexError {
    IndexError::Key { key: key.into(), problem }
}
