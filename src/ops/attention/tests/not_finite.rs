//! ATT-4: what NaN and infinity in K and V do.

use super::*;

#[test]
fn att_4_a_block_that_q8_0_cannot_hold_spoils_the_rows_that_attend_to_it() {
    covers!("ATT-4");
    let mut rng = TestRng::new(13);
    let heads = Heads { kv_heads: 1, group: 2, head_dim: 48 };
    let sequences = [20, 20].map(|len| Sequence::random(&mut rng, len, heads));
    let (setup, expected) = baseline(heads, KvType::Q8_0, &sequences);
    let [clean, good] = sequences;
    // From 127 * 65520 on the scale is no finite f16.
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -127.0 * 65520.0, 3e38] {
        for in_k in [true, false] {
            let mut bad = clean.clone();
            let x = if in_k { &mut bad.k } else { &mut bad.v };
            x[10 * 48 + 35] = value;
            let sequences = [bad, good.clone()];
            for_each_ctx(|ctx| {
                let outs = setup.run(ctx, &sequences);
                assert_eq!(bits(&outs[0][..10 * 96]), bits(&expected[0][..10 * 96]));
                assert_eq!(bits(&outs[1]), bits(&expected[1]));
                for out in outs[0].chunks(48).skip(20) {
                    let spoilt = |d: usize| in_k || d >= SCALE_BLOCK;
                    assert!((0..48).all(|d| out[d].is_nan() == spoilt(d)), "{value}, in K: {in_k}: {out:?}");
                }
            });
        }
    }
}

#[test]
fn att_4_a_non_finite_row_spoils_itself_alone() {
    covers!("ATT-4");
    let mut rng = TestRng::new(11);
    let heads = Heads { kv_heads: 1, group: 2, head_dim: 16 };
    let sequences = [20, 20].map(|len| Sequence::random(&mut rng, len, heads));
    let (setup, expected) = baseline(heads, KvType::F32, &sequences);
    let [clean, good] = sequences;
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for in_k in [true, false] {
            let mut bad = clean.clone();
            if in_k {
                bad.k[10 * 16 + 3] = value
            } else {
                bad.v[10 * 16 + 3] = value
            };
            let sequences = [bad, good.clone()];
            for_each_ctx(|ctx| {
                let outs = setup.run(ctx, &sequences);
                assert_eq!(bits(&outs[0][..10 * 32]), bits(&expected[0][..10 * 32]));
                assert_eq!(bits(&outs[1]), bits(&expected[1]));
                for (query, out) in outs[0].chunks(16).enumerate().skip(20) {
                    let score_is_inf = clean.q[query * 16 + 3] * value > 0.0;
                    match (in_k, value.is_nan() || score_is_inf) {
                        (true, spoilt) => assert!(out.iter().all(|x| x.is_nan() == spoilt), "{value} in K: {out:?}"),
                        (false, _) => assert!(!out[3].is_finite(), "{value} in V: {out:?}"),
                    }
                }
            });
        }
    }
}

#[test]
fn att_4_scores_of_minus_infinity_weigh_nothing() {
    covers!("ATT-4");
    let mut rng = TestRng::new(36);
    let heads = Heads { kv_heads: 1, group: 2, head_dim: 16 };
    let mut sequence = Sequence::random(&mut rng, 330, heads);
    // Every score of these positions is -inf: the first tile of the sequence and more, a chunk's first tile, a tile
    // inside, and a single position.
    let lost = |t: usize| t < 40 || (256..290).contains(&t) || (96..128).contains(&t) || t == 200;
    sequence.q.iter_mut().skip(3).step_by(16).for_each(|q| *q = q.abs() + 0.1);
    (0..330).filter(|t| lost(*t)).for_each(|t| sequence.k[t * 16 + 3] = f32::NEG_INFINITY);
    let mut other = sequence.clone();
    (0..330).filter(|t| lost(*t)).for_each(|t| other.v[t * 16..][..16].copy_from_slice(&rng.floats(16, 1.0)));
    for window in [None, Some(50)] {
        let spec = AttentionSpec { window, ..spec(16) };
        let (setup, expected) = baseline_of(spec, heads, KvType::F32, std::slice::from_ref(&sequence));
        for (row, out) in expected[0].chunks_exact(32).enumerate() {
            let first = row + 1 - (row + 1).min(window.unwrap_or(u32::MAX) as usize);
            assert!(out.iter().all(|x| x.is_nan() == (first..=row).all(lost)), "row {row}, window {window:?}: {out:?}");
        }
        // NaN has no bits to compare.
        let finite = &expected[0][40 * 32..];
        for sequence in [&sequence, &other] {
            for_each_ctx(|ctx| {
                let out = setup.run(ctx, std::slice::from_ref(sequence)).remove(0);
                assert_eq!(bits(&out[40 * 32..]), bits(finite), "{:?}, window {window:?}", ctx.isa);
            });
        }
    }
}
