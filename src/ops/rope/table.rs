//! The angle of each pair of dimensions per position, and how models change it.

use std::f64::consts::TAU;

#[cfg(test)]
mod tests;

/// How a model changes the rotation.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided by this factor.
    Linear(f32),
    /// `[rot / 2]`: frequency `i` is divided by element `i` (the tensor `rope_freqs.weight`).
    FreqFactors(Vec<f32>),
    /// YaRN (arXiv 2309.00071) as llama.cpp computes it, ROPE-2 of `specs/numerics.md`: frequencies of many turns in
    /// the original context stay, those of few are divided by the factor, with a ramp between; cosines and sines grow.
    Yarn(Yarn),
}

/// The numbers of [`RopeScaling::Yarn`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// By how much the context is longer than the original one.
    pub factor: f32,
    /// Positions the model was first trained for.
    pub original_context: u32,
    /// How much of the ramp counts: 1 for all of it; with 0 this is [`RopeScaling::Linear`].
    pub ext_factor: f32,
    /// Times what grows with the factor. llama.cpp's key `rope.scaling.attn_factor`: what its graph hands to ggml
    /// has the growth divided out first, as ggml multiplies it in again.
    pub attn_factor: f32,
    /// Turns in the original context from which a frequency stays.
    pub beta_fast: f32,
    /// Turns up to which it is divided.
    pub beta_slow: f32,
}

/// A rotation cannot be set up.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RopeError {
    #[error("rope dimension count {0}: must be even and not 0")]
    Dimensions(usize),
    #[error("rope frequency base {0}: must be finite and greater than 0")]
    Base(f32),
    #[error("rope scaling factor {0}: must be finite and greater than 0")]
    Factor(f32),
    #[error("rope frequency factors: {got} of them, {expected} expected")]
    FactorCount { got: usize, expected: usize },
    #[error("rope scaling yarn {name} {value}: must be {must}")]
    Yarn { name: &'static str, value: f32, must: &'static str },
}

/// The angle of each pair of dimensions per position, and the magnitude of the rotation.
#[derive(Clone, Debug)]
pub struct RopeTable {
    base: f32,
    /// `[rot / 2]` radians per position.
    frequencies: Vec<f64>,
    magnitude: f32,
}

impl RopeTable {
    /// Frequencies `base^(-2i / rot)` for the pairs `i` of the first `rot` dimensions of a head, changed by `scaling`.
    pub fn new(rot: usize, base: f32, scaling: &RopeScaling) -> Result<Self, RopeError> {
        if rot == 0 || !rot.is_multiple_of(2) {
            return Err(RopeError::Dimensions(rot));
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(RopeError::Base(base));
        }
        let frequency = |i: usize| f64::from(base).powf(-2.0 * i as f64 / rot as f64);
        Self { base, frequencies: (0..rot / 2).map(frequency).collect(), magnitude: 1.0 }.scaled(scaling)
    }

    /// The table changed by `scaling`, on top of what it was changed by before.
    pub fn scaled(mut self, scaling: &RopeScaling) -> Result<Self, RopeError> {
        match scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(factor) => self.divide(&vec![*factor; self.frequencies.len()])?,
            RopeScaling::FreqFactors(factors) => self.divide(factors)?,
            RopeScaling::Yarn(yarn) => self.stretch(yarn)?,
        }
        Ok(self)
    }

    /// The table with its cosines and sines multiplied by `factor`, on top of what multiplied them before.
    pub fn with_magnitude(self, factor: f32) -> Self {
        Self { magnitude: self.magnitude * factor, ..self }
    }

    fn divide(&mut self, factors: &[f32]) -> Result<(), RopeError> {
        let expected = self.frequencies.len();
        if factors.len() != expected {
            return Err(RopeError::FactorCount { got: factors.len(), expected });
        }
        if let Some(&bad) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            return Err(RopeError::Factor(bad));
        }
        self.frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= f64::from(*factor));
        Ok(())
    }

    /// ROPE-2. The mix of an interpolated and an extrapolated angle is linear in the angle, so it is one factor a pair.
    fn stretch(&mut self, yarn: &Yarn) -> Result<(), RopeError> {
        yarn.check()?;
        let rot = self.rot() as f64;
        let factor = f64::from(yarn.factor);
        // The pair that turns `turns` times over the original context, as a real number.
        let pair_of = |turns: f32| {
            let period = f64::from(yarn.original_context) / f64::from(turns);
            rot * (period / TAU).ln() / (2.0 * f64::from(self.base).ln())
        };
        let low = pair_of(yarn.beta_fast).floor().max(0.0);
        let high = pair_of(yarn.beta_slow).ceil().min(rot - 1.0);
        for (i, frequency) in self.frequencies.iter_mut().enumerate() {
            let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let kept = ramp * f64::from(yarn.ext_factor);
            *frequency *= (1.0 - kept) / factor + kept;
        }
        let growth = if yarn.ext_factor != 0.0 && factor > 1.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 };
        self.magnitude = (f64::from(self.magnitude) * f64::from(yarn.attn_factor) * growth) as f32;
        Ok(())
    }

    /// Dimensions of a head that are rotated.
    pub fn rot(&self) -> usize {
        self.frequencies.len() * 2
    }

    /// `[rot / 2]` radians per position of each pair.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// What cosines and sines are multiplied by.
    pub fn magnitude(&self) -> f32 {
        self.magnitude
    }

    /// Replaces `cos_sin` by `[T, rot / 2, 2]`: cosine and sine of each pair's angle at each of the `positions` `[T]`,
    /// times the magnitude.
    pub fn fill(&self, positions: &[u32], cos_sin: &mut Vec<f32>) {
        let magnitude = f64::from(self.magnitude);
        cos_sin.clear();
        cos_sin.reserve(positions.len() * self.rot());
        for &position in positions {
            for frequency in &self.frequencies {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                cos_sin.extend([(cos * magnitude) as f32, (sin * magnitude) as f32]);
            }
        }
    }
}

impl Yarn {
    fn check(&self) -> Result<(), RopeError> {
        if !(self.factor.is_finite() && self.factor > 0.0) {
            return Err(RopeError::Factor(self.factor));
        }
        let numbers = [
            ("original context", self.original_context as f32),
            ("attn_factor", self.attn_factor),
            ("beta_fast", self.beta_fast),
            ("beta_slow", self.beta_slow),
        ];
        if let Some((name, value)) = numbers.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            return Err(RopeError::Yarn { name, value, must: "finite and greater than 0" });
        }
        if !(0.0..=1.0).contains(&self.ext_factor) {
            return Err(RopeError::Yarn { name: "ext_factor", value: self.ext_factor, must: "within 0 and 1" });
        }
        Ok(())
    }
}
