//! How far two tensors are apart.

/// The distance of `ours` from a reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Largest |ours - reference|; NaN where a value is not comparable.
    pub max: f64,
    /// Mean |ours - reference|.
    pub mean: f64,
    /// `||ours - reference|| / ||reference||`; 0 where both are 0.
    pub relative: f64,
    /// What the largest may be.
    pub tolerance: f64,
    /// The first element over the tolerance, or not comparable.
    pub first: Option<usize>,
}

/// Which values have no difference and are yet as they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masked {
    /// Every value must be finite.
    Never,
    /// Both may be -inf.
    Infinite,
}

/// Compares element by element; `relative` times the largest finite |reference| is the tolerance. Lengths are equal.
pub fn figures(ours: &[f32], reference: &[f32], relative: f64, masked: Masked) -> Figures {
    let finite = reference.iter().map(|x| f64::from(x.abs())).filter(|x| x.is_finite());
    let tolerance = relative * finite.fold(0.0, f64::max);
    let (mut max, mut sum, mut squares, mut norm) = (0.0f64, 0.0, 0.0, 0.0);
    let (mut count, mut first) = (0u64, None);
    for (i, (a, b)) in ours.iter().zip(reference).enumerate() {
        if masked == Masked::Infinite && *a == f32::NEG_INFINITY && *b == f32::NEG_INFINITY {
            continue;
        }
        let (a, b) = (f64::from(*a), f64::from(*b));
        let delta = if a.is_finite() && b.is_finite() { (a - b).abs() } else { f64::NAN };
        let over = delta.is_nan() || delta > tolerance;
        first = first.or(over.then_some(i));
        // `max` would pass over a NaN.
        max = if max.is_nan() || delta <= max { max } else { delta };
        sum += delta;
        squares += delta * delta;
        norm += b * b;
        count += 1;
    }
    let relative = if squares == 0.0 { 0.0 } else { (squares / norm).sqrt() };
    Figures { max, mean: sum / count.max(1) as f64, relative, tolerance, first }
}

/// The lowest index of the largest element: what greedy decoding takes. None where an element is NaN, or there is none.
pub fn argmax(row: &[f32]) -> Option<usize> {
    if row.is_empty() || row.iter().any(|x| x.is_nan()) {
        return None;
    }
    Some((1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }))
}

/// Whether the largest element leads the second by more than twice `relative` times the row's largest magnitude, so
/// that errors of that size cannot change which is largest.
pub fn is_clear(row: &[f32], relative: f64) -> bool {
    let Some(best) = argmax(row) else { return true };
    let largest = row.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
    let others = row.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, x)| f64::from(*x));
    let second = others.fold(f64::NEG_INFINITY, f64::max);
    f64::from(row[best]) - second > 2.0 * relative * largest
}

/// `exp(x - max) / sum` of each row of `width`, in f64, rounded once: the probabilities at temperature 1.
pub fn softmax_rows(logits: &[f32], width: usize) -> Vec<f32> {
    let mut probabilities = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(width.max(1)) {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let exps: Vec<f64> = row.iter().map(|x| crate::sampling::math::exp(f64::from(*x) - f64::from(max))).collect();
        let sum: f64 = exps.iter().sum();
        probabilities.extend(exps.iter().map(|e| (e / sum) as f32));
    }
    probabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_small_case() {
        let f = figures(&[1.0, 2.5, -3.0], &[1.0, 2.0, -4.0], 0.2, Masked::Never);
        assert_eq!((f.max, f.mean, f.tolerance, f.first), (1.0, 0.5, 0.8, Some(2)));
        assert!((f.relative - (1.25f64 / 21.0).sqrt()).abs() < 1e-12);
        let same = figures(&[0.0; 3], &[0.0; 3], 1e-5, Masked::Never);
        assert_eq!((same.max, same.relative, same.first), (0.0, 0.0, None));
    }

    #[test]
    fn nan_and_infinity_are_over_any_tolerance() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for masked in [Masked::Never, Masked::Infinite] {
                for (a, b) in [([1.0, bad, 2.0], [1.0; 3]), ([1.0; 3], [1.0, bad, 2.0])] {
                    let f = figures(&a, &b, 1e30, masked);
                    assert!(f.max.is_nan() && f.first == Some(1), "{bad} {masked:?}: {f:?}");
                }
            }
        }
        let both = [f32::NEG_INFINITY, 1.0];
        assert_eq!(figures(&both, &both, 0.0, Masked::Infinite).first, None);
        assert_eq!(figures(&both, &both, 0.0, Masked::Never).first, Some(0));
        let both = [f32::INFINITY, 1.0];
        assert_eq!(figures(&both, &both, 0.0, Masked::Infinite).first, Some(0));
    }

    #[test]
    fn a_lead_is_clear_beyond_twice_the_bound() {
        let row = [4.0, -2.0, 3.0];
        assert_eq!(argmax(&row), Some(0));
        assert!(is_clear(&row, 0.124) && !is_clear(&row, 0.126));
        assert_eq!((argmax(&[1.0, 1.0]), argmax(&[f32::NAN, 1.0]), argmax(&[])), (Some(0), None, None));
    }

    #[test]
    fn probabilities_of_known_odds() {
        let logits = [1f32.ln() + 50.0, 3f32.ln() + 50.0, 4f32.ln() + 50.0];
        for (p, expected) in softmax_rows(&logits, 3).into_iter().zip([0.125, 0.375, 0.5]) {
            assert!((p - expected).abs() < 1e-5);
        }
    }
}
