//! The protocols of Quorate: pure state machines and the types they exchange.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod card;
pub mod checks;
pub mod enrol;
pub mod fedv;
pub mod hybrid_alpha;
pub mod job;
pub mod machine;
pub mod model;
pub mod payload;
pub mod policy;
pub mod pv4fad;
pub mod refusal;
pub mod registry;
pub mod round;
#[cfg(feature = "testkit")]
pub mod sim;
pub mod threshold;
pub mod wire;
pub mod workload;
