//! Learning over columns that different parties hold for the same rows.

pub mod identify;
#[cfg(test)]
mod tests;
