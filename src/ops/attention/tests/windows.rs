//! ATT-5: windows and caps.

use super::*;

const HEADS: Heads = Heads { kv_heads: 2, group: 2, head_dim: 16 };

/// Windows and caps: of a tile and less, over tiles, over chunks; of more positions than there are.
fn specs(head_dim: usize) -> Vec<AttentionSpec> {
    let plain = spec(head_dim);
    let windows = [1, 2, 31, 32, 33, 100, 256, 300].map(|window| AttentionSpec { window: Some(window), ..plain });
    let capped = [Some(40), Some(1000), None].map(|window| AttentionSpec { window, soft_cap: Some(1.5), ..plain });
    windows.into_iter().chain(capped).collect()
}

#[test]
fn att_5_windows_and_caps_match_the_definition() {
    covers!("ATT-5");
    let mut rng = TestRng::new(22);
    let heads = Heads { kv_heads: 2, group: 3, head_dim: 64 };
    let pool = Pool::new(2).unwrap();
    for (spec, kv_type) in specs(64).into_iter().flat_map(|spec| [KvType::F16, KvType::Q8_0].map(|ty| (spec, ty))) {
        let sequences = [1, 40, 350].map(|len| Sequence::random(&mut rng, len, heads));
        let setup = Setup { heads, kv_type, spec, block_size: 32, poison: f32::NAN, steps: vec![lens(&sequences)] };
        let outs = setup.run(&Ctx { pool: &pool, isa: Isa::detect() }, &sequences);
        for (sequence, out) in sequences.iter().zip(outs) {
            for (i, (got, (want, bound))) in out.iter().zip(reference(sequence, heads, kv_type, &spec)).enumerate() {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= bound, "{spec:?} {kv_type} element {i}: {got} for {want}, bound {bound:e}");
            }
        }
    }
}

#[test]
fn att_5_the_bits_are_those_of_the_definition() {
    covers!("ATT-5");
    let mut rng = TestRng::new(23);
    let sequence = [Sequence::random(&mut rng, 350, HEADS)];
    for spec in specs(16) {
        let (_, outs) = baseline_of(spec, HEADS, KvType::F32, &sequence);
        assert_bits_of_the_definition(&sequence[0], HEADS, &spec, &outs[0]);
    }
}

#[test]
fn att_2_att_5_steps_paths_and_blocks_do_not_change_the_bits_of_windows() {
    covers!("ATT-2", "ATT-5");
    let mut rng = TestRng::new(24);
    let sequences = [340, 35].map(|len| Sequence::random(&mut rng, len, HEADS));
    let singles: Vec<_> = (0..340).map(|row| vec![1, usize::from(row < 35)]).collect();
    let mixed = vec![vec![0, 34], vec![271, 1], vec![3, 0], vec![66, 0]];
    for spec in specs(16) {
        let (setup, expected) = baseline_of(spec, HEADS, KvType::F16, &sequences);
        assert_same(&setup, &sequences, &expected);
        for (steps, block_size) in [(&singles, 32), (&mixed, 32), (&mixed, 5), (&setup.steps, 64)] {
            assert_same(&Setup { block_size, steps: steps.clone(), ..setup.clone() }, &sequences, &expected);
        }
    }
}

#[test]
fn att_5_a_window_of_everything_and_a_plain_row_have_the_same_bits() {
    covers!("ATT-5");
    let mut rng = TestRng::new(25);
    let sequences = [300, 1].map(|len| Sequence::random(&mut rng, len, HEADS));
    let (setup, expected) = baseline(HEADS, KvType::F16, &sequences);
    for window in [300, 301, u32::MAX] {
        assert_same(
            &Setup { spec: AttentionSpec { window: Some(window), ..spec(16) }, ..setup.clone() },
            &sequences,
            &expected,
        );
    }
}

#[test]
fn att_3_att_5_what_lies_before_the_window_does_not_matter() {
    covers!("ATT-3", "ATT-5");
    let mut rng = TestRng::new(26);
    let clean = Sequence::random(&mut rng, 330, HEADS);
    for window in [1, 20, 64, 290] {
        let spec = AttentionSpec { window: Some(window), ..spec(16) };
        let sequences = [clean.clone()];
        let (setup, expected) = baseline_of(spec, HEADS, KvType::F32, &sequences);
        assert!(expected[0].iter().all(|x| x.is_finite()));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0] {
            // Only rows from 300 on are looked at; they do not see what is spoilt.
            let mut spoilt = clean.clone();
            let unseen = 301 - window as usize;
            spoilt.k[..unseen * 32].fill(value);
            spoilt.v[..unseen * 32].fill(value);
            for_each_ctx(|ctx| {
                let outs = setup.run(ctx, std::slice::from_ref(&spoilt));
                let rows = 300 * 64..;
                assert!(bits(&outs[0][rows.clone()]) == bits(&expected[0][rows]), "{value}, window {window}");
            });
        }
    }
}

#[test]
#[should_panic(expected = "a window of no positions")]
fn a_window_of_no_positions_is_refused() {
    let mut rng = TestRng::new(28);
    let spec = AttentionSpec { window: Some(0), ..spec(16) };
    baseline_of(spec, HEADS, KvType::F32, &[Sequence::random(&mut rng, 3, HEADS)]);
}
