//! The client side of Quorate: durable store, bulk transfer, and what parties build on.

pub mod bulk;
pub mod store;
