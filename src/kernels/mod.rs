//! Instruction-set paths. The only arithmetic with `unsafe`, the only user of `core::arch`.
//!
//! The path is chosen once at start ([`Isa::detect`] or `--isa`) and carried as a value.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod codes;
pub mod lanes;
mod line_ops;
pub mod panel;
pub mod peak;
#[cfg(target_arch = "x86_64")]
mod prefetch;
pub mod quantize;
pub mod scalar;

use std::fmt;
use std::str::FromStr;

/// An instruction-set path this machine can run: a value is only made by [`Isa::detect`] or [`Isa::require`],
/// so holding one proves that the CPU has the features.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa {
    path: Path,
    /// On the path `Avx512`: the CPU has AVX512_BF16, and matrices of BF16 are multiplied with it.
    bf16: bool,
}

/// The paths there are, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// Plain Rust: the oracle the others are tested against.
    Scalar,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX2 and AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL, VNNI (and AVX2, FMA, F16C).
    Avx512,
}

/// A path was asked for by name that does not exist here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    #[error("--isa {0}: this CPU lacks it")]
    Unsupported(String),
    #[error("--isa {0}: unknown; one of auto, scalar, avx2, avxvnni, avx512")]
    Unknown(String),
}

impl Isa {
    /// The fastest path this CPU has.
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self { path: Path::Scalar, bf16: false })
    }

    /// Every path this CPU has, slowest first; `Avx512` without its BF16 instructions too, as other CPUs run it.
    pub fn available() -> Vec<Self> {
        let paths = Path::ALL.into_iter().filter(|p| p.is_available());
        let mut all: Vec<_> = paths.map(|path| Self { path, bf16: false }).collect();
        all.extend(Self::require(Path::Avx512).filter(|isa| isa.bf16));
        all
    }

    /// `path`, if this CPU has it, with all that belongs to it.
    pub fn require(path: Path) -> Option<Self> {
        path.is_available().then(|| Self { path, bf16: path == Path::Avx512 && has_bf16() })
    }

    pub fn path(self) -> Path {
        self.path
    }

    /// Whether BF16 matrices are multiplied by BF16 instructions.
    pub fn has_bf16(self) -> bool {
        self.bf16
    }

    pub fn name(self) -> &'static str {
        match self.path {
            Path::Scalar => "scalar",
            Path::Avx2 => "avx2",
            Path::AvxVnni => "avxvnni",
            Path::Avx512 => "avx512",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
    false
}

/// Whether Intel made the CPU: what was measured there differs ([`panel::prefetch_helps`]). Asked for speed, never for
/// results.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    use std::sync::LazyLock;
    static INTEL: LazyLock<bool> = LazyLock::new(|| {
        let vendor = core::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    });
    *INTEL
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

impl Path {
    const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512];

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2,
            Self::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
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
            "avxvnni" => Path::AvxVnni,
            "avx512" => Path::Avx512,
            "neon" => return Err(IsaError::Unsupported(text.into())),
            _ => return Err(IsaError::Unknown(text.into())),
        };
        Self::require(path).ok_or_else(|| IsaError::Unsupported(text.into()))
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        f.write_str(if self.bf16 { "+bf16" } else { "" })
    }
}
