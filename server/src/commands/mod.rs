//! The subcommands of `quorate`.

pub mod demo;
pub mod plain;
