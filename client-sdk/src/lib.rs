//! The client side of Quorate: durable store, bulk transfer, built-in models, and what parties
//! build on.

pub mod bulk;
pub mod learn;
pub mod store;
