//! Changes to a finished model file, most of them for bad files.

use super::TestModel;
use super::plan::{Content, Planned};
use crate::gguf::tensor_type::TensorType;
use crate::gguf::writer::{TensorEntry, Value, Writer};
use std::io;

/// Changes to the finished file, made by [`TestModel`]'s `with_…` methods.
#[derive(Clone, Debug, Default)]
pub struct Edits(Vec<Edit>);

/// A change to the finished description.
#[derive(Clone, Debug)]
enum Edit {
    SetKey(String, Value),
    RemoveKey(String),
    RemoveTensor(String),
    /// With its data.
    AddTensor(TensorEntry, Vec<u8>),
    /// Tensor and dimensions.
    Dims(String, Vec<u64>),
    /// Tensor and ggml type.
    Type(String, u32),
    /// Tensor and data.
    Data(String, Vec<u8>),
}

impl TestModel {
    /// Sets or replaces a metadata key.
    pub fn with_key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.edits.0.push(Edit::SetKey(key.into(), value.into()));
        self
    }

    /// Leaves a metadata key out.
    pub fn with_key_removed(mut self, key: &str) -> Self {
        self.edits.0.push(Edit::RemoveKey(key.into()));
        self
    }

    /// Sets a key to a value of any type number and any bytes.
    pub fn with_raw_kv(self, key: &str, value_type: u32, bytes: &[u8]) -> Self {
        self.with_key(key, Value::Raw(value_type, bytes.into()))
    }

    /// Leaves a tensor out.
    pub fn with_tensor_removed(mut self, name: &str) -> Self {
        self.edits.0.push(Edit::RemoveTensor(name.into()));
        self
    }

    /// Adds a tensor that the shape does not have; zeros, so of any known type.
    pub fn with_extra_tensor(mut self, name: &str, dims: &[u64], ggml_type: u32) -> Self {
        let num_bytes = TensorType::from_id(ggml_type).and_then(|t| t.tensor_bytes(dims)).unwrap_or(0);
        let entry = TensorEntry { name: name.into(), dims: dims.into(), ggml_type, num_bytes };
        self.edits.0.push(Edit::AddTensor(entry, vec![0; num_bytes as usize]));
        self
    }

    /// Gives a tensor other dimensions (fastest first); its data become zeros of the right size.
    pub fn with_tensor_dims(mut self, name: &str, dims: &[u64]) -> Self {
        self.edits.0.push(Edit::Dims(name.into(), dims.into()));
        self
    }

    /// Gives a tensor another ggml type; its data become zeros of the right size.
    pub fn with_tensor_type(mut self, name: &str, ggml_type: u32) -> Self {
        self.edits.0.push(Edit::Type(name.into(), ggml_type));
        self
    }

    /// Replaces a tensor's data: as many bytes as its type and dimensions take.
    pub fn with_tensor_data(mut self, name: &str, bytes: &[u8]) -> Self {
        self.edits.0.push(Edit::Data(name.into(), bytes.into()));
        self
    }
}

impl Edits {
    /// Makes the changes in the order in which they were asked for.
    pub(super) fn apply(&self, header: &mut Writer, plan: &mut Vec<Planned>) -> io::Result<()> {
        self.0.iter().try_for_each(|edit| apply(edit, header, plan))
    }
}

fn apply(edit: &Edit, header: &mut Writer, plan: &mut Vec<Planned>) -> io::Result<()> {
    let find = |plan: &mut Vec<Planned>, name: &str| -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("no tensor {name} to edit"));
        plan.iter().position(|planned| planned.entry.name == name).ok_or_else(missing)
    };
    match edit {
        Edit::SetKey(key, value) => header.set(key, value.clone()),
        Edit::RemoveKey(key) => header.remove(key),
        Edit::RemoveTensor(name) => {
            let index = find(plan, name)?;
            plan.remove(index);
        }
        Edit::AddTensor(entry, bytes) => {
            plan.push(Planned { entry: entry.clone(), content: Content::Bytes(bytes.clone()) });
        }
        Edit::Dims(name, dims) => {
            let index = find(plan, name)?;
            plan[index].entry.dims = dims.clone();
            plan[index].zero()?;
        }
        Edit::Type(name, ggml_type) => {
            let index = find(plan, name)?;
            plan[index].entry.ggml_type = *ggml_type;
            plan[index].zero()?;
        }
        Edit::Data(name, bytes) => {
            let index = find(plan, name)?;
            plan[index].content = Content::Bytes(bytes.clone());
        }
    }
    Ok(())
}
