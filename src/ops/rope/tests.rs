use super::*;
use crate::ops::tests::{TestRng, bits, for_each_ctx};

/// What is rotated.
#[derive(Clone, Copy)]
struct Case<'a> {
    heads: usize,
    head_dim: usize,
    rot: usize,
    pairing: Pairing,
    positions: &'a [u32],
    /// The frequency of pair `i` is `10000^(-2i / rot) / factors[i]`.
    factors: &'a [f64],
    magnitude: f64,
}

impl Case<'_> {
    /// The rotation as a complex product in f64, element by element.
    fn reference(&self, x: &[f32]) -> Vec<f64> {
        let mut out: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        for (t, position) in self.positions.iter().enumerate() {
            for head in 0..self.heads {
                for pair in 0..self.rot / 2 {
                    let slowness = 10_000f64.powf(2.0 * pair as f64 / self.rot as f64) * self.factors[pair];
                    let theta = f64::from(*position) / slowness;
                    let at = (t * self.heads + head) * self.head_dim;
                    let (first, second) = match self.pairing {
                        Pairing::Adjacent => (at + 2 * pair, at + 2 * pair + 1),
                        Pairing::Halves => (at + pair, at + pair + self.rot / 2),
                    };
                    let (a, b) = (f64::from(x[first]) * self.magnitude, f64::from(x[second]) * self.magnitude);
                    out[first] = a * theta.cos() - b * theta.sin();
                    out[second] = a * theta.sin() + b * theta.cos();
                }
            }
        }
        out
    }
}

#[test]
fn rope_1_rotation_matches_the_formula_and_every_context_gives_the_same_bits() {
    covers!("ROPE-1");
    let mut rng = TestRng::new(5);
    let positions: Vec<u32> = (0..17).chain([131_071, 5]).collect();
    let shapes = [(1, 2, 2), (3, 8, 8), (2, 80, 32), (2, 96, 96), (4, 64, 64), (32, 64, 64)];
    for ((heads, head_dim, rot), pairing) in
        shapes.into_iter().flat_map(|s| [(s, Pairing::Adjacent), (s, Pairing::Halves)])
    {
        let x = rng.floats(positions.len() * heads * head_dim, 2.0);
        let factors: Vec<f32> = (0..rot / 2).map(|_| 1.0 + rng.float(0.5).abs()).collect();
        let scalings = [RopeScaling::None, RopeScaling::Linear(4.0), RopeScaling::FreqFactors(factors.clone())];
        let all_factors = [vec![1.0; rot / 2], vec![4.0; rot / 2], factors.iter().map(|&f| f.into()).collect()];
        for ((scaling, factors), magnitude) in scalings.iter().zip(&all_factors).zip([1.0, 1.0, 1.25]) {
            let table = RopeTable::new(rot, 10_000.0, scaling).unwrap().with_magnitude(magnitude as f32);
            let mut cos_sin = vec![9.0; 3];
            table.fill(&positions, &mut cos_sin);
            let case = Case { heads, head_dim, rot, pairing, positions: &positions, factors, magnitude };
            let expected = case.reference(&x);
            let mut first: Option<Vec<u32>> = None;
            for_each_ctx(|ctx| {
                let mut out = x.clone();
                rotate(ctx, &mut out, heads, head_dim, rot, pairing, &cos_sin);
                for (i, (got, want)) in out.iter().zip(&expected).enumerate() {
                    // |a|, |b| <= 2: two products of rounded factors and a sum, 3 roundings of at most 4.
                    let error = (f64::from(*got) - want).abs();
                    let bound = 4.0 * magnitude * 1.5 * f64::from(f32::EPSILON);
                    assert!(error <= bound, "{pairing:?} element {i}: {got} for {want}");
                }
                let bits = bits(&out);
                assert_eq!(first.get_or_insert_with(|| bits.clone()), &bits);
            });
        }
    }
}

#[test]
fn rope_1_the_bits_are_those_of_the_definition() {
    covers!("ROPE-1");
    let mut rng = TestRng::new(35);
    let (heads, head_dim, rot) = (3, 90, 70);
    let positions = [0u32, 1, 77, 4095, 131_071];
    let factors: Vec<f32> = (0..rot / 2).map(|_| 1.0 + rng.float(0.5).abs()).collect();
    let table = RopeTable::new(rot, 10_000.0, &RopeScaling::FreqFactors(factors.clone())).unwrap().with_magnitude(1.25);
    let mut cos_sin = Vec::new();
    table.fill(&positions, &mut cos_sin);
    let x = rng.floats(positions.len() * heads * head_dim, 2.0);
    for pairing in [Pairing::Adjacent, Pairing::Halves] {
        let mut expected = x.clone();
        for (head, dims) in expected.chunks_exact_mut(head_dim).enumerate() {
            for i in 0..rot / 2 {
                let w = 10_000f64.powf(-2.0 * i as f64 / rot as f64) / f64::from(factors[i]);
                let angle = f64::from(positions[head / heads]) * w;
                let (c, s) = ((angle.cos() * 1.25) as f32, (angle.sin() * 1.25) as f32);
                let (first, second) = match pairing {
                    Pairing::Adjacent => (2 * i, 2 * i + 1),
                    Pairing::Halves => (i, i + rot / 2),
                };
                let (a, b) = (dims[first], dims[second]);
                (dims[first], dims[second]) = (a * c - b * s, a * s + b * c);
            }
        }
        for_each_ctx(|ctx| {
            let mut out = x.clone();
            rotate(ctx, &mut out, heads, head_dim, rot, pairing, &cos_sin);
            assert_eq!(bits(&out), bits(&expected), "{pairing:?} {:?}", ctx.isa);
        });
    }
}

#[test]
fn rope_1_the_pairings_rotate_alike() {
    covers!("ROPE-1");
    let mut rng = TestRng::new(21);
    let (heads, head_dim, rot) = (3, 90, 70);
    let mut cos_sin = Vec::new();
    RopeTable::new(rot, 500.0, &RopeScaling::None).unwrap().fill(&[3, 1000, 7], &mut cos_sin);
    let x = rng.floats(3 * heads * head_dim, 2.0);
    // Where dimension d of the halves is among the neighbours.
    let place = |d: usize| match d {
        d if d >= rot => d,
        d if d >= rot / 2 => 2 * (d - rot / 2) + 1,
        d => 2 * d,
    };
    for_each_ctx(|ctx| {
        let mut halves = x.clone();
        rotate(ctx, &mut halves, heads, head_dim, rot, Pairing::Halves, &cos_sin);
        let mut adjacent = vec![0.0; x.len()];
        (0..x.len()).for_each(|i| adjacent[i / head_dim * head_dim + place(i % head_dim)] = x[i]);
        rotate(ctx, &mut adjacent, heads, head_dim, rot, Pairing::Adjacent, &cos_sin);
        let reordered: Vec<f32> =
            (0..x.len()).map(|i| adjacent[i / head_dim * head_dim + place(i % head_dim)]).collect();
        assert_eq!(bits(&halves), bits(&reordered));
    });
}
