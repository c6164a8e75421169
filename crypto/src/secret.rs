//! A wrapper for secret values: zeroized on drop, never shown, compared in constant time.

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A secret that leaves memory when dropped and never shows its value.
///
/// There is no `Debug`, no `Clone`, no `Serialize` and no `PartialEq`:
///
/// ```compile_fail,E0277
/// let a = quorate_crypto::secret::Secret::new([0u8; 32]);
/// println!("{a:?}");
/// ```
/// ```compile_fail,E0599
/// let a = quorate_crypto::secret::Secret::new([0u8; 32]);
/// let _ = a.clone();
/// ```
/// ```compile_fail,E0277
/// let a = quorate_crypto::secret::Secret::new([0u8; 32]);
/// fn stored<T: serde::Serialize>(_: &T) {}
/// stored(&a);
/// ```
/// ```compile_fail
/// let a = quorate_crypto::secret::Secret::new([0u8; 32]);
/// let _ = a == a;
/// ```
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the shortest possible use.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value, to be filled in place (so that growth leaves no copies).
    pub const fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Compares in constant time (lengths are public).
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.as_ref().ct_eq(other.0.as_ref()).into()
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Refuses to compile unless each type is without `Debug`, `Clone` and `Serialize`.
///
/// ```
/// quorate_crypto::assert_secret!(quorate_crypto::secret::Secret<[u8; 32]>);
/// ```
/// One of the three is enough:
/// ```compile_fail,E0283
/// #[derive(Debug)]
/// struct Key([u8; 32]);
/// quorate_crypto::assert_secret!(Key);
/// ```
/// ```compile_fail,E0283
/// #[derive(Clone)]
/// struct Key([u8; 32]);
/// quorate_crypto::assert_secret!(Key);
/// ```
/// ```compile_fail,E0283
/// #[derive(serde::Serialize)]
/// struct Key([u8; 32]);
/// quorate_crypto::assert_secret!(Key);
/// ```
#[macro_export]
macro_rules! assert_secret {
    ($($key:ty),+ $(,)?) => {$(
        const _: () = {
            struct DebugIsForbidden;
            struct CloneIsForbidden;
            struct SerializeIsForbidden;
            // Every type has `OF` for `()`; one with a forbidden trait has it twice, so that the
            // compiler cannot infer which of them is meant below.
            trait OfSecretType<Why> {
                const OF: () = ();
            }
            impl<T: ?Sized> OfSecretType<()> for T {}
            impl<T: ?Sized + ::core::fmt::Debug> OfSecretType<DebugIsForbidden> for T {}
            impl<T: ?Sized + ::core::clone::Clone> OfSecretType<CloneIsForbidden> for T {}
            impl<T: ?Sized + $crate::secret::Serialize> OfSecretType<SerializeIsForbidden> for T {}
            <$key as OfSecretType<_>>::OF
        };
    )+};
}

#[doc(hidden)]
pub use serde::Serialize;
