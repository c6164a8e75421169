//! The registry: a line per scheme, ids never reused.

use crate::sum::SumScheme;
use crate::threshold::elgamal::ElGamal;
use crate::threshold::paillier::PAILLIER;
#[cfg(any(test, feature = "testkit"))]
use crate::threshold::paillier::PAILLIER_512_INSECURE;
use crate::threshold::{ThresholdScheme, ThresholdSum};

/// Every scheme this build knows, laboratory ones only with their feature.
static SCHEMES: &[&dyn SumScheme] = &[
    &crate::fe::pad::Pad,
    &crate::fe::ddh::DdhMcfe,
    &ThresholdSum(ElGamal),
    &ThresholdSum(PAILLIER),
    #[cfg(any(test, feature = "testkit"))]
    &ThresholdSum(PAILLIER_512_INSECURE),
];

/// All registered schemes.
#[must_use]
pub fn all() -> &'static [&'static dyn SumScheme] {
    SCHEMES
}

/// The scheme with this id.
#[must_use]
pub fn by_id(id: u16) -> Option<&'static dyn SumScheme> {
    all().iter().copied().find(|scheme| scheme.info().id == id)
}

/// The scheme with this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn SumScheme> {
    all().iter().copied().find(|scheme| scheme.info().name == name)
}

/// Threshold schemes by their own trait; each is also in [`all`], as a
/// [`ThresholdSum`](crate::threshold::ThresholdSum).
static THRESHOLD: &[&dyn ThresholdScheme] = &[
    &ElGamal,
    &PAILLIER,
    #[cfg(any(test, feature = "testkit"))]
    &PAILLIER_512_INSECURE,
];

/// The threshold schemes.
#[must_use]
pub fn threshold() -> &'static [&'static dyn ThresholdScheme] {
    THRESHOLD
}

/// The threshold scheme with this id.
#[must_use]
pub fn threshold_by_id(id: u16) -> Option<&'static dyn ThresholdScheme> {
    threshold().iter().copied().find(|scheme| scheme.info().id == id)
}
