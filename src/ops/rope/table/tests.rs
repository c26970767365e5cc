use super::*;

const YARN: Yarn =
    Yarn { factor: 4.0, original_context: 2048, ext_factor: 1.0, attn_factor: 1.0, beta_fast: 32.0, beta_slow: 1.0 };

/// The expected numbers were read off what `ggml_rope_ext` (llama.cpp's ggml 0.25.3, CPU) makes of the pairs (1, 0) at
/// position 1: angles and magnitude in f32.
#[test]
fn rope_2_yarn_frequencies_and_magnitude_are_those_of_llama_cpp() {
    covers!("ROPE-2");
    let wide = YARN;
    let long = Yarn { factor: 8.0, original_context: 4096, ..YARN };
    let mixed = Yarn {
        factor: 2.5,
        original_context: 1024,
        ext_factor: 0.5,
        attn_factor: 1.25,
        beta_fast: 16.0,
        beta_slow: 2.0,
    };
    #[rustfmt::skip]
    let cases: [(usize, f32, Yarn, f32, &[f64]); 3] = [
        (32, 1e4, wide, 1.1386294, &[
            1.0, 0.5623413, 0.3162278, 0.1778279, 0.1, 0.05020905, 0.02484647, 0.0120669, 0.005714286, 0.002610871,
            0.001129385, 0.00044457, 0.0002500001, 0.0001405853, 7.905695e-05, 4.445699e-05,
        ]),
        (16, 1e6, long, 1.2079442, &[
            1.0, 0.177828, 0.02239946, 0.002343089, 0.000125, 2.222849e-05, 3.952847e-06, 7.029266e-07,
        ]),
        (16, 1e4, mixed, 1.3645363, &[0.7, 0.2213594, 0.07, 0.01739253, 0.004, 0.001264911, 0.0004, 0.0001264911]),
    ];
    for (rot, base, yarn, magnitude, frequencies) in cases {
        let table = RopeTable::new(rot, base, &RopeScaling::Yarn(yarn)).unwrap();
        // f32: a power of up to 16 steps, an arc tangent, and the printed 7 digits.
        assert!((table.magnitude() / magnitude - 1.0).abs() < 1e-6, "{} for {magnitude}", table.magnitude());
        assert_eq!(table.frequencies().len(), frequencies.len());
        for (i, (got, want)) in table.frequencies().iter().zip(frequencies).enumerate() {
            assert!((got / want - 1.0).abs() < 3e-6, "pair {i} of {rot}: {got} for {want}");
        }
    }
}

/// As above, with factors too.
#[test]
fn rope_2_yarn_comes_on_top_of_factors() {
    covers!("ROPE-2");
    let factors = RopeScaling::FreqFactors(vec![1.0, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 8.0]);
    let expected = [1.0, 0.3162278, 0.06666667, 0.01284675, 0.002083333, 0.0003458742, 3.125000e-05, 9.882119e-06];
    let (plain, yarn) = (RopeTable::new(16, 1e4, &RopeScaling::None).unwrap(), RopeScaling::Yarn(YARN));
    let either_way =
        [plain.clone().scaled(&factors).unwrap().scaled(&yarn), plain.scaled(&yarn).unwrap().scaled(&factors)];
    for table in either_way.map(Result::unwrap) {
        for (got, want) in table.frequencies().iter().zip(expected) {
            assert!((got / want - 1.0).abs() < 3e-6, "{got} for {want}");
        }
    }
}

#[test]
fn rope_2_without_its_ramp_yarn_is_linear_scaling() {
    covers!("ROPE-2");
    let none = RopeTable::new(32, 1e4, &RopeScaling::Yarn(Yarn { ext_factor: 0.0, ..YARN })).unwrap();
    let linear = RopeTable::new(32, 1e4, &RopeScaling::Linear(4.0)).unwrap();
    assert_eq!((none.frequencies(), none.magnitude()), (linear.frequencies(), 1.0));
    // A factor that shortens the context leaves the magnitude, as get_mscale of llama.cpp does.
    assert_eq!(RopeTable::new(32, 1e4, &RopeScaling::Yarn(Yarn { factor: 0.5, ..YARN })).unwrap().magnitude(), 1.0);
}

#[test]
fn rope_1_the_magnitude_multiplies_cosines_and_sines() {
    covers!("ROPE-1");
    let table = RopeTable::new(4, 100.0, &RopeScaling::None).unwrap().with_magnitude(1.5).with_magnitude(0.5);
    assert_eq!(table.magnitude(), 0.75);
    let mut cos_sin = Vec::new();
    table.fill(&[0, 3], &mut cos_sin);
    let angles = [0.0f64, 0.0, 3.0, 0.3];
    let expected: Vec<f32> = angles.iter().flat_map(|a| [(a.cos() * 0.75) as f32, (a.sin() * 0.75) as f32]).collect();
    assert_eq!(cos_sin, expected);
}

#[test]
fn bad_parameters_are_named() {
    let table = |rot, base, scaling: RopeScaling| RopeTable::new(rot, base, &scaling).unwrap_err().to_string();
    assert_eq!(table(7, 1e4, RopeScaling::None), "rope dimension count 7: must be even and not 0");
    assert_eq!(table(0, 1e4, RopeScaling::None), "rope dimension count 0: must be even and not 0");
    assert_eq!(table(8, 0.0, RopeScaling::None), "rope frequency base 0: must be finite and greater than 0");
    assert_eq!(table(8, f32::NAN, RopeScaling::None), "rope frequency base NaN: must be finite and greater than 0");
    assert_eq!(table(8, 1e4, RopeScaling::Linear(0.0)), "rope scaling factor 0: must be finite and greater than 0");
    let three = RopeScaling::FreqFactors(vec![1.0; 3]);
    assert_eq!(table(8, 1e4, three), "rope frequency factors: 3 of them, 4 expected");
    for (yarn, message) in [
        (Yarn { factor: -1.0, ..YARN }, "rope scaling factor -1: must be finite and greater than 0"),
        (
            Yarn { original_context: 0, ..YARN },
            "rope scaling yarn original context 0: must be finite and greater than 0",
        ),
        (Yarn { attn_factor: 0.0, ..YARN }, "rope scaling yarn attn_factor 0: must be finite and greater than 0"),
        (
            Yarn { beta_fast: f32::INFINITY, ..YARN },
            "rope scaling yarn beta_fast inf: must be finite and greater than 0",
        ),
        (Yarn { beta_slow: f32::NAN, ..YARN }, "rope scaling yarn beta_slow NaN: must be finite and greater than 0"),
        (Yarn { ext_factor: -1.0, ..YARN }, "rope scaling yarn ext_factor -1: must be within 0 and 1"),
    ] {
        assert_eq!(table(8, 1e4, RopeScaling::Yarn(yarn)), message);
    }
}

/// Bases and contexts at the edges give frequencies that are numbers.
#[test]
fn yarn_at_the_edges_is_finite() {
    for base in [1.0, f32::MIN_POSITIVE, f32::MAX, 0.5] {
        for (original_context, beta_fast, beta_slow) in [(1, 32.0, 1.0), (u32::MAX, 1.0, 32.0), (6, 1e30, 1e-30)] {
            let yarn = Yarn { original_context, beta_fast, beta_slow, ..YARN };
            let table = RopeTable::new(8, base, &RopeScaling::Yarn(yarn)).unwrap();
            assert!(table.frequencies().iter().all(|f| f.is_finite()), "{base} {:?}", table.frequencies());
        }
    }
}
