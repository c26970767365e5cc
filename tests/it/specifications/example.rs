//! The models of the worked examples in `specs/01_GPT2_PIPELINE.md` and `specs/02_LLAMA2_PIPELINE.md`, built from the
//! tables of these documents.

use crate::spec::named_table;
use crate::spec::table;
use llorch_cpud::gguf::writer::{TensorEntry, Value, Writer};

/// The keys and tensors of a model file.
#[derive(Clone)]
pub struct Example {
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

/// An F32 tensor.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// Fastest first.
    pub dims: Vec<u64>,
    pub values: Vec<f32>,
}

impl Example {
    /// The example of the document whose ids begin with `prefix`.
    pub fn of(prefix: &str) -> Self {
        let keys = table(&format!("{prefix}-INIT-001"));
        let keys = keys.rows().map(|row| (row.text("key").to_owned(), value(row.text("type"), row.text("example"))));
        let tensors = named_table(&format!("{prefix}-INIT-003"), "example");
        let tensors = tensors.rows().map(|row| {
            let dims: Vec<u64> = row.list("dims");
            let numbers = 0..dims.iter().product::<u64>();
            let (s, kind) = (row.get("number"), row.text("kind"));
            let values = numbers.map(|e| number(s, e, kind)).collect();
            Tensor { name: row.text("tensor").to_owned(), dims, values }
        });
        Self { keys: keys.collect(), tensors: tensors.collect() }
    }

    /// The model file.
    pub fn build(&self) -> Vec<u8> {
        let mut header = Writer::default();
        self.keys.iter().for_each(|(key, value)| header.set(key, value.clone()));
        for Tensor { name, dims, values } in &self.tensors {
            let num_bytes = 4 * values.len() as u64;
            header.push_tensor(TensorEntry { name: name.clone(), dims: dims.clone(), ggml_type: 0, num_bytes });
        }
        let mut data = header.begin(Vec::new()).expect("memory takes all");
        for tensor in &self.tensors {
            data.begin_tensor().expect("announced");
            let bytes: Vec<u8> = tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect();
            data.write(&bytes).expect("as many as announced");
        }
        data.finish().expect("complete")
    }

    /// The tensor of that name.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of the example")
    }
}

/// A value of a key, by the name of its type in the tables.
pub fn value(kind: &str, text: &str) -> Value {
    match kind {
        "string" => text.into(),
        "u32" => text.parse::<u32>().expect("a count").into(),
        "f32" => text.parse::<f32>().expect("a number").into(),
        other => panic!("no type {other}"),
    }
}

/// Number `e` of tensor `s`, as INIT-004 says.
fn number(s: u64, e: u64, kind: &str) -> f32 {
    let h = 1000 * s + 37 * e + 11;
    let r = (h * h % 65537 % 101) as f32 - 50.0;
    match kind {
        "matrix" => r / 64.0,
        "norm" => 1.0 + r / 256.0,
        "bias" => r / 128.0,
        other => panic!("no kind {other}"),
    }
}
