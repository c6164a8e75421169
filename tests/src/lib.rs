//! Tests across the layers; there is no library here.
