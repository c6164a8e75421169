//! Placeholder

pub mod bench;
