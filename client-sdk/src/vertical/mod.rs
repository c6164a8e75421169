//! Learning over columns that different parties hold for the same rows.

pub mod block;
pub mod fit;
pub mod identify;
pub mod replay;
#[cfg(test)]
mod tests;
pub mod twin;
