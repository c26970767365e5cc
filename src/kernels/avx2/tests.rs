//! The kernels of AVX-VNNI on CPUs that have the same instruction of AVX-512, against the scalar path.

use super::accumulate_with;
use super::dots::Avx512Vnni;
use crate::kernels::codes::expand;
use crate::kernels::panel::{
    Column, Form, Line, Segment, accumulate, code_lines, expanded_lines, is_packed, panel_lines,
};
use crate::kernels::quantize::quantize_tile;
use crate::kernels::{Isa, Path};
use crate::ops::test_weights::{Range, random_activations};
use crate::ops::tests::TestRng;
use crate::quant::WeightType;

/// Lines of any bits, but for scales: f16 or bf16 that are neither infinite nor NaN. Every byte may be the upper one of
/// a scale, so bit 6 is cleared in all but the code lines of a block.
fn random_lines(random: &mut TestRng, ty: WeightType, k: usize) -> Vec<Line> {
    let block = panel_lines(ty, ty.block_len());
    let codes = code_lines(ty);
    let mut lines = vec![Line([0; 64]); panel_lines(ty, k)];
    for (i, line) in lines.iter_mut().enumerate() {
        let mask = if i % block < codes { 0xff } else { 0xbf };
        line.0.fill_with(|| random.next().to_le_bytes()[7] & mask);
    }
    lines
}

#[test]
fn mm_2_avx_vnni_gives_the_bits_of_the_scalar_path() {
    if Isa::require(Path::Avx512).is_none() {
        #[expect(clippy::print_stderr, reason = "what is left out must be seen in the test log")]
        {
            eprintln!("not run: this CPU lacks AVX512_VNNI");
        }
        return;
    }
    let scalar = Isa::require(Path::Scalar).unwrap();
    let mut random = TestRng::new(20_261_126);
    let k = 512;
    for ty in WeightType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
        for columns in 1..=Form::of(scalar, ty).tile_columns() {
            let weights = random_lines(&mut random, ty, k);
            let x = random_activations(&mut random, Range::Plain, columns, k);
            let mut words = vec![0; Form::of(scalar, ty).column_words(k) * columns];
            quantize_tile(scalar, Form::of(scalar, ty), &x, k, &mut words);
            let mut expanded = vec![];
            if is_packed(ty) {
                expanded.resize(expanded_lines(ty, k), Line([0; 64]));
                expand(scalar, ty, k, &weights, &mut expanded);
            }
            let segment =
                Segment { weights: &weights, expanded: &expanded, columns: &words, ahead: &[], streams: false };
            let mut expected: Vec<Column> = vec![[0.0; 32]; columns];
            accumulate(scalar, ty, k, segment, &mut expected);
            for segment in [segment, Segment { expanded: &[], ..segment }] {
                let mut found: Vec<Column> = vec![[0.0; 32]; columns];
                // SAFETY: the path Avx512 needs AVX512_VNNI and VL, and AVX2, FMA and F16C.
                unsafe { accumulate_with(Avx512Vnni::new(), ty, segment, &mut found) };
                let bits = |sums: &[Column]| sums.as_flattened().iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{ty}, {columns} columns");
            }
        }
    }
}
