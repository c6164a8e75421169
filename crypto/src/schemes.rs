//! The registry: a line per scheme, ids never reused.

use crate::sum::SumScheme;

/// Every scheme this build knows, laboratory ones only with their feature.
static SCHEMES: &[&dyn SumScheme] = &[&crate::fe::pad::Pad, &crate::fe::ddh::DdhMcfe];

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
