//! The party's side of Quorate: durable store, bulk transfer, built-in models, transport, driver.

pub mod api;
pub mod bulk;
pub mod engine;
pub mod keys;
pub mod learn;
pub mod ledger;
pub mod party;
pub mod payments;
pub mod store;
pub mod trainer;
pub mod transport;
pub mod vertical;
