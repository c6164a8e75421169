//! The client side of Quorate: durable store, bulk transfer, and what parties build on.

pub mod api;
pub mod bulk;
pub mod engine;
pub mod store;
