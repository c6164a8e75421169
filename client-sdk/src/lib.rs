//! The client side of Quorate: durable store, bulk transfer, built-in models, and what parties
//! build on.

pub mod api;
pub mod bulk;
pub mod learn;
pub mod engine;
pub mod store;
