//! Whole files: what is encoded, what is copied, what the header says.

use super::*;
use crate::gguf::test_model::TestModel;
use WeightType::{BF16, F16, F32, Q4_0, Q4K, Q6K, Q8_0};

fn open(model: &TestModel) -> ModelFile {
    ModelFile::from_bytes(model.build()).expect("valid")
}

fn quantised(file: &ModelFile, recipe: Recipe) -> ModelFile {
    let steps = plan(file, recipe).expect("a plan");
    let bytes = write(file, recipe, &steps, Vec::new(), &mut |_| {}).expect("written");
    ModelFile::from_bytes(bytes).expect("valid")
}

fn ty(file: &ModelFile, name: &str) -> WeightType {
    file.tensor(name).expect("there").weight_type().expect("known")
}

fn values(file: &ModelFile, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).expect("there");
    let mut out = vec![f32::NAN; tensor.dims.iter().product::<u64>() as usize];
    dequantize_row(tensor.weight_type().expect("known"), tensor.data, &mut out);
    out
}

/// Rows of 256 but for `ffn_down`, whose rows are 96.
fn wide() -> TestModel {
    TestModel { hidden: 256, ffn: 96, layers: 4, ..TestModel::default() }
}

#[test]
fn every_tensor_has_the_type_of_the_recipe_and_the_bytes_of_the_encoder() {
    covers!("QNT-1");
    let file = open(&wide());
    for (recipe, attn_q, attn_v, down, head) in [
        (Recipe::F16, F16, F16, F16, F16),
        (Recipe::BF16, BF16, BF16, BF16, BF16),
        (Recipe::Q8_0, Q8_0, Q8_0, Q8_0, Q8_0),
        (Recipe::Q4_0, Q4_0, Q4_0, Q4_0, Q6K),
        (Recipe::Q4KM, Q4K, Q6K, Q8_0, Q6K),
        (Recipe::Q6K, Q6K, Q6K, Q8_0, Q6K),
    ] {
        let out = quantised(&file, recipe);
        for (name, expected) in [
            ("blk.3.attn_q.weight", attn_q),
            ("blk.3.attn_v.weight", attn_v),
            ("blk.3.ffn_down.weight", down),
            ("output.weight", head),
            ("blk.3.attn_norm.weight", F32),
        ] {
            assert_eq!(ty(&out, name), expected, "{recipe} {name}");
            let mut bytes = Vec::new();
            encode_row(expected, &values(&file, name), &mut bytes).expect("finite");
            assert_eq!(out.tensor(name).expect("there").data, bytes, "{recipe} {name}");
        }
        let names = |file: &ModelFile| file.tensors().map(|t| (t.name.clone(), t.dims.clone())).collect::<Vec<_>>();
        assert_eq!(names(&out), names(&file), "{recipe}");
    }
}

#[test]
fn every_key_is_copied_in_order_but_for_the_two_that_tell_types() {
    covers!("QNT-10");
    let model = wide()
        .with_key_removed("general.file_type")
        .with_key_removed("general.quantization_version")
        .with_key("odd.first", Value::F64(0.1))
        .with_key("general.file_type", 0u32)
        .with_key("odd.array", Value::Strs(vec!["a".into(), String::new(), "ü".into()]))
        .with_key("split.count", 1u32)
        .with_key("split.no", 0u32)
        .with_key("odd.last", Value::Bool(true));
    let file = open(&model);
    let out = quantised(&file, Recipe::Q4KM);
    let (from, to) = (file.metadata(), out.metadata());
    let expected: Vec<&str> = from.keys_in_file_order().filter(|key| !key.starts_with("split.")).collect();
    let found: Vec<&str> = to.keys_in_file_order().collect();
    let (last, same) = found.split_last().expect("keys");
    assert_eq!(same, expected);
    assert!(expected.iter().position(|key| *key == "odd.array") > expected.iter().position(|key| *key == "odd.first"));
    assert_eq!(*last, "general.quantization_version");
    for key in expected.into_iter().filter(|key| *key != "general.file_type") {
        assert_eq!(from.raw(key), to.raw(key), "{key}");
    }
    assert_eq!(to.require_u32("general.file_type").expect("there"), 15);
    assert_eq!(to.require_u32("general.quantization_version").expect("there"), 2);
}

#[test]
fn an_alignment_of_its_own_is_kept() {
    covers!("QNT-10");
    let file = open(&wide());
    let steps = plan(&file, Recipe::Q8_0).expect("a plan");
    let aligned = |alignment: u32| {
        let mut writer = header(&file, Recipe::Q8_0, &steps).expect("a header");
        writer.set("general.alignment", alignment);
        writer.alignment = u64::from(alignment);
        let mut data = writer.begin(Vec::new()).expect("written");
        for step in &steps {
            data.begin_tensor().expect("the next");
            let size = TensorType::from_id(step.ggml_type).and_then(|ty| ty.tensor_bytes(&step.tensor.dims));
            data.write(&vec![0; size.expect("a size") as usize]).expect("written");
        }
        ModelFile::from_bytes(data.finish().expect("complete")).expect("valid")
    };
    let out = quantised(&aligned(4096), Recipe::Q4_0);
    assert_eq!(out.metadata().require_u32("general.alignment").expect("there"), 4096);
    assert!(out.tensors().all(|tensor| tensor.offset.is_multiple_of(4096)));
}

#[test]
fn a_type_that_is_there_already_is_copied_and_a_quantised_one_is_told() {
    covers!("QNT-3");
    let file = open(&TestModel { weight_type: Q8_0, ..wide() });
    let steps = plan(&file, Recipe::Q8_0).expect("a plan");
    assert!(steps.iter().all(|step| step.convert.is_none() && !step.requantises()));
    let same = quantised(&file, Recipe::Q8_0);
    let data = |file: &ModelFile| file.tensor("blk.0.ffn_up.weight").expect("there").data.to_vec();
    assert_eq!(data(&same), data(&file));
    // To floats and on: values are those that the blocks stand for.
    let steps = plan(&file, Recipe::Q4KM).expect("a plan");
    let up = steps.iter().find(|step| step.tensor.name == "blk.0.ffn_up.weight").expect("there");
    assert!(up.requantises() && up.convert == Some((Q8_0, Q4K)));
    let down = steps.iter().find(|step| step.tensor.name == "blk.0.ffn_down.weight").expect("there");
    assert_eq!((down.instead_of, down.convert), (Some(Q4K), None), "Q8_0 for want of Q4_K, and there already");
    let wide = quantised(&file, Recipe::BF16);
    let round = |x: Vec<f32>| x.into_iter().map(|x| half::bf16::from_f32(x).to_f32()).collect::<Vec<_>>();
    assert_eq!(values(&wide, "blk.0.ffn_up.weight"), round(values(&file, "blk.0.ffn_up.weight")));
}

#[test]
fn stacks_of_experts_are_encoded_row_by_row() {
    covers!("QNT-4");
    let bytes: Vec<u8> = (0..3 * 4 * 256).flat_map(|i| ((i * 37 % 101) as f32 - 50.0).to_le_bytes()).collect();
    let name = "blk.0.ffn_up_exps.weight";
    let model = wide().with_extra_tensor(name, &[256, 4, 3], 0).with_tensor_data(name, &bytes);
    let file = open(&model);
    let out = quantised(&file, Recipe::Q6K);
    assert_eq!(ty(&out, name), Q6K);
    let mut expected = Vec::new();
    encode_row(Q6K, &values(&file, name), &mut expected).expect("finite");
    assert_eq!(out.tensor(name).expect("there").data, expected);
}

#[test]
fn a_matrix_of_several_slabs_is_whole() {
    covers!("QNT-13");
    let model = TestModel { hidden: 256, vocab: 9001, ffn: 32, layers: 1, ..TestModel::default() };
    let file = open(&model);
    let name = "token_embd.weight";
    assert!(values(&file, name).len() > 2 * SLAB_ELEMENTS);
    let out = quantised(&file, Recipe::F16);
    let rounded: Vec<f32> = values(&file, name).into_iter().map(|x| half::f16::from_f32(x).to_f32()).collect();
    assert_eq!(values(&out, name), rounded);
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_named() {
    covers!("QNT-3", "QNT-21");
    let name = "blk.2.attn_k.weight";
    let mut data: Vec<u8> = (0..32 * 256).flat_map(|_| 0.5f32.to_le_bytes()).collect();
    data[4 * (5 * 256 + 9)..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let file = open(&wide().with_tensor_data(name, &data));
    let steps = plan(&file, Recipe::Q4_0).expect("a plan");
    let error = write(&file, Recipe::Q4_0, &steps, Vec::new(), &mut |_| {}).expect_err("refused");
    assert_eq!(error.to_string(), "tensor blk.2.attn_k.weight, row 5: element 9 is inf");

    let file = open(&wide().with_tensor_type("blk.0.attn_q.weight", 9));
    let error = plan(&file, Recipe::F16).expect_err("refused");
    assert_eq!(error.to_string(), "tensor blk.0.attn_q.weight: type Q8_1 is not supported yet");
}

#[test]
fn progress_ends_at_the_bytes_of_all_tensors() {
    let file = open(&wide());
    let steps = plan(&file, Recipe::Q8_0).expect("a plan");
    let mut heard = Vec::new();
    write(&file, Recipe::Q8_0, &steps, Vec::new(), &mut |bytes| heard.push(bytes)).expect("written");
    assert!(heard.is_sorted());
    assert_eq!(heard.last().copied(), Some(file.tensors().map(|tensor| tensor.num_bytes).sum()));
}
