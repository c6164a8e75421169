//! Types that hold secret keys or seeds cannot be shown, copied or stored by accident: this file does
//! not compile once one of them gets `Debug`, `Clone` or `Serialize`. Types that are private to a
//! scheme are asserted beside their definition; [`assert_secret`] itself is proven by its examples.

use quorate_crypto::assert_secret;
use quorate_crypto::keys::{Identity, SharedKey};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{HolderInput, KeySecret, PartyInput};

#[test]
fn keys_have_no_debug_clone_or_serialize() {
    assert_secret!(Secret<[u8; 32]>, Secret<[u8; 64]>, Secret<Vec<u8>>);
    assert_secret!(Identity, SharedKey);
}

/// Shares of every threshold scheme, and what their holders keep while a key is made, are
/// `KeySecret`s.
#[test]
fn shares_have_no_debug_clone_or_serialize() {
    assert_secret!(KeySecret, PartyInput, HolderInput);
}
