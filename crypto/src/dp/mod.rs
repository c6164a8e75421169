//! Differential privacy: exact noise in machine words, shares of it, the encoding of real vectors,
//! and the accountant.

pub mod account;
