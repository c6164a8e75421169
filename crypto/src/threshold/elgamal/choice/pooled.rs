//! Rows of each class from sums of thermometer bits, and ciphertexts under fresh randomness that
//! whoever has the seed makes again.

use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;

use super::{Binding, ChoiceKey, Ciphers};
use crate::secret::Secret;
use crate::threshold::elgamal::proof::Draw;

impl Ciphers {
    /// Where this list holds x_1 .. x_L, sums of thermometer bits over rows of which there are `rows`:
    /// the L + 1 differences x_c - x_(c+1) for c = 0..=L, with x_0 = `rows` and x_(L+1) = 0, that is
    /// the rows of each class.
    #[must_use]
    pub fn classes(&self, rows: u64) -> Self {
        let plain = RistrettoPoint::mul_base(&Scalar::from(rows));
        let first = [RistrettoPoint::identity(), plain];
        let none = [RistrettoPoint::identity(); 2];
        let at_least = core::iter::once(&first).chain(&self.0);
        let beyond = self.0.iter().chain([&none]);
        Self(at_least.zip(beyond).map(|(a, b)| [a[0] - b[0], a[1] - b[1]]).collect())
    }
}

impl ChoiceKey {
    /// The same plaintexts under fresh randomness: adds to each ciphertext an encryption of 0 that
    /// follows from `seed`, `binding` and the whole list.
    ///
    /// # Security
    /// To whoever lacks both `seed` and the key, the outcome tells nothing of the list (decisional
    /// Diffie-Hellman). Whoever has the seed makes it again, and so checks it without a proof; he
    /// learns no plaintext by it.
    #[must_use]
    pub fn refreshed(
        &self,
        binding: &Binding,
        ciphers: &Ciphers,
        seed: &Secret<[u8; 32]>,
    ) -> Ciphers {
        let parts: [&[u8]; 3] = [self.0.id(), binding, &ciphers.to_bytes()];
        let mut draw = Draw::new(seed, "refresh", &parts);
        let fresh = |[c1, c2]: &[RistrettoPoint; 2]| {
            let blind = zeroize::Zeroizing::new(draw.scalar());
            [c1 + RistrettoPoint::mul_base(&blind), c2 + &*blind * self.0.table()]
        };
        Ciphers(ciphers.0.iter().map(fresh).collect())
    }
}
