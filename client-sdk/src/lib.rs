//! The party's side of Quorate: built-in models, transport and driver.

pub mod learn;
