//! Instruction-set paths. The only arithmetic with `unsafe`, the only user of `core::arch`.
//!
//! The path is chosen once at start ([`Isa::detect`] or `--isa`) and carried as a value.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod expand;
pub mod lanes;
mod line_ops;
pub mod panel;
#[cfg(target_arch = "x86_64")]
mod prefetch;
pub mod quantize;
pub mod scalar;

use std::fmt;
use std::str::FromStr;

/// An instruction-set path this machine can run: a value is only made by [`Isa::detect`] or [`Isa::require`],
/// so holding one proves that the CPU has the features.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Path);

/// The paths there are, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// Plain Rust: the oracle the others are tested against.
    Scalar,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VNNI (and AVX2, FMA, F16C).
    Avx512,
}

/// A path was asked for by name that does not exist here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    #[error("--isa {0}: this CPU lacks it")]
    Unsupported(String),
    #[error("--isa {0}: unknown; one of auto, scalar, avx2, avx512")]
    Unknown(String),
}

impl Isa {
    /// The fastest path this CPU has.
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self(Path::Scalar))
    }

    /// Every path this CPU has, slowest first.
    pub fn available() -> Vec<Self> {
        [Path::Scalar, Path::Avx2, Path::Avx512].into_iter().filter(|p| p.is_available()).map(Self).collect()
    }

    /// `path`, if this CPU has it.
    pub fn require(path: Path) -> Option<Self> {
        path.is_available().then_some(Self(path))
    }

    pub fn path(self) -> Path {
        self.0
    }

    pub fn name(self) -> &'static str {
        match self.0 {
            Path::Scalar => "scalar",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
        }
    }
}

impl Path {
    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2,
            Self::Avx512 => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Self::Scalar
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    /// Reads the value of `--isa`.
    fn from_str(text: &str) -> Result<Self, IsaError> {
        let path = match text {
            "auto" => return Ok(Self::detect()),
            "scalar" => Path::Scalar,
            "avx2" => Path::Avx2,
            "avx512" => Path::Avx512,
            "avxvnni" | "neon" => return Err(IsaError::Unsupported(text.into())),
            _ => return Err(IsaError::Unknown(text.into())),
        };
        Self::require(path).ok_or_else(|| IsaError::Unsupported(text.into()))
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
