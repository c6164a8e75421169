//! The services of Quorate and what its binary prints.

pub mod bench;
pub mod http;
pub mod report;
