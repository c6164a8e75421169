//! Placeholder

pub mod bench;
//! The services of Quorate and what its binary prints.

pub mod http;
pub mod report;
