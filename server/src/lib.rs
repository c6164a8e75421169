//! The services of Quorate and what its binary prints.

pub mod report;
