//! Benches only: see `schemes.rs`.
