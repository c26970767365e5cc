//! What a trace is told about attention.

use super::*;

/// Two steps, so that rows read K of an earlier step; decode rows beside prompt rows.
fn steps() -> Vec<Vec<usize>> {
    vec![vec![40, 1], vec![25, 30]]
}

#[test]
fn att_6_scores_are_the_bits_of_the_definition() {
    covers!("ATT-6");
    let mut rng = TestRng::new(29);
    let heads = Heads { kv_heads: 2, group: 3, head_dim: 20 };
    let sequences = [65, 31].map(|len| Sequence::random(&mut rng, len, heads));
    let pool = Pool::new(2).unwrap();
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    let (plain, kv_width) = (spec(20), 40);
    let other_specs = [AttentionSpec { window: Some(9), ..plain }, AttentionSpec { soft_cap: Some(2.0), ..plain }];
    for (spec, kv_type) in [plain].into_iter().chain(other_specs).flat_map(|spec| KvType::ALL.map(|ty| (spec, ty))) {
        for block_size in [5, 32] {
            let setup = Setup { heads, kv_type, spec, block_size, poison: f32::NAN, steps: steps() };
            let stored = |x: &[f32]| -> Vec<f32> { x.chunks(20).flat_map(|head| as_stored(head, kv_type)).collect() };
            let k = sequences.each_ref().map(|sequence| stored(&sequence.k));
            setup.run_observed(&ctx, &sequences, |batch, kv, q| {
                for (i, sequence) in sequences.iter().enumerate() {
                    let rows = batch.query_start_loc[i] as usize..batch.query_start_loc[i + 1] as usize;
                    let got = scores(kv, 1, batch, i, q, &spec);
                    assert_eq!(got.len(), rows.len());
                    for (got, position) in got.iter().zip(&batch.positions[rows]) {
                        let position = *position as usize;
                        let expected = (0..6).flat_map(|head| {
                            let k: Vec<&[f32]> = k[i]
                                .chunks(kv_width)
                                .take(position + 1)
                                .map(|row| &row[head / 3 * 20..][..20])
                                .collect();
                            definition::scores(&sequence.q[(position * 6 + head) * 20..][..20], &k, &spec)
                        });
                        let expected: Vec<f32> = expected.collect();
                        assert_eq!(bits(got), bits(&expected), "{kv_type} {spec:?} sequence {i} position {position}");
                    }
                }
            });
        }
    }
}

/// The softmax of the scores, in f64, weighs V to what attention gives.
#[test]
fn att_6_scores_lead_to_the_output() {
    covers!("ATT-6");
    let mut rng = TestRng::new(30);
    let heads = Heads { kv_heads: 1, group: 2, head_dim: 16 };
    let sequence = [Sequence::random(&mut rng, 300, heads)];
    let spec = AttentionSpec { window: Some(270), soft_cap: Some(3.0), ..spec(16) };
    let setup = Setup { heads, kv_type: KvType::F32, spec, block_size: 32, poison: f32::NAN, steps: vec![vec![300]] };
    let pool = Pool::new(2).unwrap();
    let mut all = Vec::new();
    let outs = setup.run_observed(&Ctx { pool: &pool, isa: Isa::detect() }, &sequence, |batch, kv, q| {
        all = scores(kv, 1, batch, 0, q, &spec);
    });
    for (position, (scores, out)) in all.iter().zip(outs[0].chunks(32)).enumerate() {
        for (scores, out) in scores.chunks(position + 1).zip(out.chunks(16)) {
            let weights: Vec<f64> = scores.iter().map(|z| f64::from(*z).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (d, out) in out.iter().enumerate() {
                let want: f64 =
                    weights.iter().enumerate().map(|(t, w)| w / sum * f64::from(sequence[0].v[t * 16 + d])).sum();
                // |v| <= 1. Of a weight: the exponential, of a difference below 6, and a sum of 300; of the output a
                // chain of 300: 600 roundings would be a bound if all went one way, and few units are what they cost.
                let error = (f64::from(*out) - want).abs();
                assert!(
                    error <= 600.0 * f64::from(f32::EPSILON) / 2.0,
                    "position {position} dimension {d}: {out} for {want}"
                );
            }
        }
    }
}

#[test]
fn kv_1_kv_2_cached_rows_are_what_attention_reads() {
    covers!("KV-1", "KV-2");
    let mut rng = TestRng::new(31);
    let heads = Heads { kv_heads: 2, group: 1, head_dim: 35 };
    let sequences = [65, 31].map(|len| Sequence::random(&mut rng, len, heads));
    let pool = Pool::new(1).unwrap();
    let ctx = Ctx { pool: &pool, isa: Isa::detect() };
    for (kv_type, block_size) in KvType::ALL.into_iter().flat_map(|ty| [(ty, 5), (ty, 32)]) {
        let setup = Setup { heads, kv_type, spec: spec(35), block_size, poison: f32::NAN, steps: steps() };
        setup.run_observed(&ctx, &sequences, |batch, kv, _| {
            for (i, sequence) in sequences.iter().enumerate() {
                let rows = batch.query_start_loc[i] as usize..batch.query_start_loc[i + 1] as usize;
                let of_rows = |x: &[f32], rows: std::ops::Range<usize>| -> Vec<u32> {
                    let positions = batch.positions[rows].iter().map(|p| *p as usize * 70);
                    let heads = positions.flat_map(|at| x[at..at + 70].chunks(35));
                    heads.flat_map(|head| bits(&as_stored(head, kv_type))).collect()
                };
                for rows in [rows.clone(), rows.end - 1..rows.end] {
                    let (k, v) = cached_rows(kv, 1, batch, i, rows.clone());
                    assert_eq!(bits(&k), of_rows(&sequence.k, rows.clone()), "{kv_type} K of sequence {i}");
                    assert_eq!(bits(&v), of_rows(&sequence.v, rows), "{kv_type} V of sequence {i}");
                }
            }
        });
    }
}
