//! The services behind the `quorate` binary.

pub mod http;
