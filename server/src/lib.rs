//! The services of Quorate and what its binary prints.

pub mod aggregator;
pub mod authority;
pub mod bench;
pub mod commands;
pub mod demo;
pub mod driver;
pub mod facts;
pub mod http;
mod refusals;
pub mod report;
mod routes;
