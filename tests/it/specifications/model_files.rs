//! Section 1 of `specs/01_GPT2_PIPELINE.md` and `specs/02_LLAMA2_PIPELINE.md`: what a model file must have.

use super::example::{Example, Tensor, value};
use super::pipelines::run;
use crate::spec::{named_table, table};
use llorch_cpud::gguf::ModelFile;
use llorch_cpud::gguf::tensor_type::TensorType;
use llorch_cpud::model::config::ModelConfig;
use llorch_cpud::model::weights::Weights;
use llorch_cpud::quant::WeightType;

/// Loads keys and weights, or says in one line why not.
fn open(example: &Example) -> Result<(), String> {
    let file = ModelFile::from_bytes(example.build()).map_err(|e| e.to_string())?;
    let config = ModelConfig::from_metadata(file.metadata()).map_err(|e| e.to_string())?;
    Weights::load(&file, &config, &mut |_| {}).map_err(|e| e.to_string())?;
    Ok(())
}

fn assert_names(example: &Example, name: &str, what: &str) {
    let error = open(example).expect_err(what);
    assert!(error.contains(name) && !error.contains('\n'), "{what}: {error}");
}

fn check_keys(prefix: &str) {
    let example = Example::of(prefix);
    assert_eq!(open(&example), Ok(()));
    for row in table(&format!("{prefix}-INIT-001")).rows() {
        let key = row.text("key");
        let mut changed = example.clone();
        changed.keys.retain(|(k, _)| k != key);
        if row.text("required") == "yes" {
            assert_names(&changed, key, "a required key is missing");
        }
        let mut changed = example.clone();
        let other = if row.text("type") == "string" { value("u32", "1") } else { value("string", "x") };
        changed.keys.iter_mut().filter(|(k, _)| k == key).for_each(|(_, v)| *v = other.clone());
        assert_names(&changed, key, "a key of another type");
    }
}

fn check_sizes(prefix: &str) {
    let kinds = table(&format!("{prefix}-INIT-001"));
    for row in table(&format!("{prefix}-INIT-002")).rows() {
        let (key, text) = (row.text("key"), row.text("value"));
        let kind = kinds.rows().find(|kind| kind.text("key") == key).expect("a key of the table");
        let mut changed = Example::of(prefix);
        let bad = value(kind.text("type"), text);
        changed.keys.iter_mut().filter(|(k, _)| k == key).for_each(|(_, v)| *v = bad.clone());
        let error = open(&changed).expect_err(key);
        assert!(error.contains(row.text("named")), "{key} = {text}: {error}");
        assert!(error.contains(text), "the value: {key} = {text}: {error}");
    }
}

fn check_tensors(prefix: &str) {
    let example = Example::of(prefix);
    for index in 0..example.tensors.len() {
        let name = example.tensors[index].name.clone();
        let mut changed = example.clone();
        changed.tensors.remove(index);
        if name != "output.weight" {
            assert_names(&changed, &name, "a tensor is missing");
        }
        let mut changed = example.clone();
        let tensor = &mut changed.tensors[index];
        // A row or an element more.
        let added = tensor.dims.iter().rev().skip(1).product::<u64>();
        *tensor.dims.last_mut().expect("dimensions") += 1;
        tensor.values.extend(vec![0.5; added as usize]);
        // With a token more the others are too short.
        let named = if name == "token_embd.weight" { "output.weight" } else { &name };
        let is_tied = !example.tensors.iter().any(|t| t.name == "output.weight");
        if name != "token_embd.weight" || !is_tied {
            assert_names(&changed, named, "a tensor of other dimensions");
        }
    }
}

/// The first numbers of tensors, and that they are laid out as INIT-004 says shows in every value of section 10.
fn check_layout(prefix: &str) {
    let mut example = Example::of(prefix);
    for row in named_table(&format!("{prefix}-INIT-004"), "example").rows() {
        let values = example.tensor(row.text("tensor")).values.clone();
        for (column, found) in values.iter().take(6).enumerate() {
            assert_eq!(*found, row.get::<f32>(&column.to_string()), "{}", row.text("tensor"));
        }
    }
}

/// Without `output.weight` the embedding is the head; with it, it is not.
fn check_tied(prefix: &str) {
    let mut tied = Example::of(prefix);
    tied.tensors.retain(|tensor| tensor.name != "output.weight");
    let embedding = tied.tensor("token_embd.weight").clone();
    let tied_logits = run(&tied, &[1, 2]).values[&("logits", 0)].clone();
    let untied = |values: Vec<f32>| {
        let mut example = tied.clone();
        example.tensors.push(Tensor { name: "output.weight".into(), dims: embedding.dims.clone(), values });
        run(&example, &[1, 2]).values[&("logits", 0)].clone()
    };
    assert_eq!(untied(embedding.values.clone()), tied_logits, "{prefix}: the same matrix");
    // Of the two rows of the prompt: what is generated then is something else.
    let rows = 2 * embedding.dims[1] as usize;
    let negated = untied(embedding.values.iter().map(|x| -x).collect());
    let expected: Vec<f32> = tied_logits[..rows].iter().map(|x| -x).collect();
    assert_eq!(negated[..rows], expected, "{prefix}: the head alone");
}

/// A tensor that nothing reads is refused where it would change the computation, else passed over.
fn check_others(prefix: &str, refused: &str) {
    let with = |name: &str| {
        let mut example = Example::of(prefix);
        example.tensors.push(Tensor { name: name.into(), dims: vec![2], values: vec![0.0; 2] });
        example
    };
    for name in [refused, "blk.0.attn_other_norm.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_up.scale"] {
        assert_names(&with(name), name, "a tensor that would be left out");
    }
    assert_eq!(open(&with("blk.0.attn.masked")), Ok(()));
}

#[test]
fn llama2_init_keys_sizes_and_tensors() {
    covers!("LLAMA2-INIT-001", "LLAMA2-INIT-002", "LLAMA2-INIT-003", "LLAMA2-INIT-004", "LLAMA2-INIT-005");
    check_keys("LLAMA2");
    check_sizes("LLAMA2");
    check_tensors("LLAMA2");
    check_layout("LLAMA2");
    check_tied("LLAMA2");
}

#[test]
fn llama2_init_006_biases_count_and_other_tensors_are_refused() {
    covers!("LLAMA2-INIT-006");
    check_others("LLAMA2", "blk.0.attn_qkv.bias");
    let q = |value: f32| {
        let mut example = Example::of("LLAMA2");
        example.tensors.push(Tensor { name: "blk.0.attn_q.bias".into(), dims: vec![8], values: vec![value; 8] });
        run(&example, &[1, 2]).values[&("q", 0)].clone()
    };
    let plain = run(&Example::of("LLAMA2"), &[1, 2]).values[&("q", 0)].clone();
    assert_eq!(q(0.5)[..16], plain[..16].iter().map(|x| x + 0.5).collect::<Vec<_>>());
}

#[test]
fn gpt2_init_keys_sizes_and_tensors() {
    covers!("GPT2-INIT-001", "GPT2-INIT-002", "GPT2-INIT-003", "GPT2-INIT-004", "GPT2-INIT-005");
    check_keys("GPT2");
    check_sizes("GPT2");
    check_tensors("GPT2");
    check_layout("GPT2");
    check_tied("GPT2");
}

#[test]
fn gpt2_init_006_other_tensors_are_refused() {
    covers!("GPT2-INIT-006");
    check_others("GPT2", "blk.0.attn_q.bias");
}

#[test]
fn gguf_1_blocks_are_those_of_the_table() {
    covers!("GGUF-1");
    let table = table("GGUF-1");
    for row in table.rows() {
        let ty = TensorType::from_id(row.get("number")).expect("a type of ggml");
        let (elements, bytes) = (row.get::<u64>("elements"), row.get::<u64>("bytes"));
        assert_eq!((ty.name, ty.tensor_bytes(&[elements])), (row.text("type"), Some(bytes)));
        let computes = ty.weight_type().expect("a type that computes");
        assert_eq!(
            (computes.block_len() as u64, computes.row_bytes(elements as usize)),
            (elements, Some(bytes as usize))
        );
    }
    assert_eq!(table.rows.len(), WeightType::ALL.len(), "every type is in the table");
}
