//! Differential privacy: exact noise in machine words, shares of it, the encoding of real vectors,
//! and the accountant.
//!
//! Noise and rotation give the same numbers for the same seed on every machine: the samplers use
//! integers only, the rotation only sums, differences and rounding of `f64` in a fixed order.

pub mod account;
pub mod encode;
pub mod sample;

pub use encode::Rotation;
pub use sample::{DiscreteGaussian, DiscreteLaplace, PolyaShare, Ratio};

/// Why a noise or an encoding was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DpError {
    /// A variance or scale of zero, or a ratio without a positive denominator.
    #[error("variance and scale must be above zero")]
    NotPositive,
    /// A variance or scale whose numerator or denominator has more bits than the samplers take.
    #[error("numerator and denominator must be below 2^{0}")]
    TooPrecise(u32),
    /// A scale whose shares would take too long to draw.
    #[error("the scale of noise shares must be at most 2^{0}")]
    TooWide(u32),
    /// Noise split among no one.
    #[error("noise needs at least one share")]
    NoShares,
    /// A number that is negative, infinite or not a number, or does not fit the ratio.
    #[error("not a finite, non-negative number within the range of the ratio")]
    OutOfRange,
    /// No shift leaves room for the sum and its noise without coarser rounding than the clip.
    #[error("a ring of {0} bits cannot hold the sum and its noise")]
    RingTooSmall(u32),
}
