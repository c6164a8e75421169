//! Functional encryption for sums: parties encrypt under keys shared with authorities, and one
//! functional key per label opens one sum.
