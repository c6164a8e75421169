//! PV4FAD: a payment network and its banks train and use a fraud forest over payments whose evidence is
//! split between them.

pub mod forest;
