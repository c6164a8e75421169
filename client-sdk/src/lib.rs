//! The client side of Quorate: durable store, bulk transfer, and what parties build on.

pub mod api;
pub mod bulk;
pub mod engine;
pub mod keys;
pub mod party;
pub mod store;
pub mod trainer;
pub mod transport;
