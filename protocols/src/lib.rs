//! The protocols of Quorate: pure state machines and the types they exchange.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod model;
pub mod payload;
pub mod workload;
