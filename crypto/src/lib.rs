//! The cryptography of Quorate: pure functions and types, no input or output, no clock.
//!
//! A *sum scheme* lets `n` parties each hide a vector of `d` ring words so that only the sum over an
//! agreed set of parties can be opened. [`sum`] holds the trait every scheme implements,
//! [`schemes`] the registry.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod baseline;
pub mod dlog;
pub mod dp;
pub mod fe;
pub mod fixed;
pub mod keys;
pub mod merkle;
pub mod oprf;
pub mod psi;
pub mod schemes;
pub mod secret;
pub mod sum;
pub mod threshold;

#[cfg(any(test, feature = "testkit"))]
pub mod conformance;
