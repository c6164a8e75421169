//! Tests across the layers; see the folders beside this one.
