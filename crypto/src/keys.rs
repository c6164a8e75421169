//! Long-term keys of parties and services, and the key two of them share.

use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hpke::aead::ChaCha20Poly1305 as SealAead;
use hpke::kdf::HkdfSha256 as SealKdf;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Key-encapsulation suite 1: X25519. A hybrid post-quantum one gets the next number.
pub const KEM_X25519: u8 = 1;

/// An Ed25519 verification key, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VerifyKey(pub [u8; 32]);

/// An X25519 public key, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExchangeKey(pub [u8; 32]);

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ExchangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl ExchangeKey {
    /// Whether every key agreement with this key yields zero: such a key is of small order.
    #[must_use]
    pub fn is_small_order(&self) -> bool {
        // Clamping makes any scalar a multiple of the cofactor, so one scalar decides for all.
        !StaticSecret::from([1; 32]).diffie_hellman(&PublicKey::from(self.0)).was_contributory()
    }
}

/// What [`ExchangeKey::seal`] adds: the encapsulated key and the tag.
pub const SEALED_OVERHEAD: usize = 48;

impl ExchangeKey {
    /// Seals `plain` so that only this key's owner reads it: HPKE in base mode (RFC 9180) with
    /// X25519, HKDF-SHA256 and ChaCha20-Poly1305; the encapsulated key, then the ciphertext.
    ///
    /// `None` when this key is of small order.
    ///
    /// # Security
    /// Anybody can seal: who sent it must be known from elsewhere. `rng` must give fresh randomness.
    #[must_use]
    pub fn seal<R: CryptoRng>(&self, info: &[u8], plain: &[u8], rng: &mut R) -> Option<Vec<u8>> {
        let to = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0).ok()?;
        let sealed = hpke::single_shot_seal_with_rng::<SealAead, SealKdf, X25519HkdfSha256>(
            &OpModeS::Base,
            &to,
            info,
            plain,
            &[],
            rng,
        );
        let (key, ciphertext) = sealed.ok()?;
        Some([key.to_bytes().as_slice(), &ciphertext].concat())
    }
}

impl VerifyKey {
    /// Whether `signature` is this key's over `domain` and `message`.
    ///
    /// # Security
    /// `verify_strict`: small-order keys and malleable signatures are refused.
    #[must_use]
    pub fn verify(&self, domain: &str, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else {
            return false;
        };
        key.verify_strict(&digest(domain, message), &Signature::from_bytes(signature)).is_ok()
    }
}

fn digest(domain: &str, message: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((domain.len() as u64).to_le_bytes());
    hash.update(domain.as_bytes());
    hash.update(message);
    hash.finalize().into()
}

/// A signing key and an exchange key of one epoch of one party or service.
///
/// # Security
/// Both secrets are zeroized on drop by their libraries. Like every type that holds a secret key, it
/// has no `Debug`, no `Clone` and no `Serialize`:
///
/// ```compile_fail,E0277
/// println!("{:?}", quorate_crypto::keys::Identity::from_bytes(&[7; 64]));
/// ```
/// ```compile_fail,E0599
/// let _ = quorate_crypto::keys::Identity::from_bytes(&[7; 64]).clone();
/// ```
/// ```compile_fail,E0277
/// fn stored<T: serde::Serialize>(_: &T) {}
/// stored(&quorate_crypto::keys::Identity::from_bytes(&[7; 64]));
/// ```
pub struct Identity {
    signing: SigningKey,
    exchange: StaticSecret,
}

impl Identity {
    /// Fresh keys.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0u8; 64]);
        rng.fill_bytes(seed.as_mut());
        Self::from_bytes(&seed)
    }

    /// Keys from their 64 secret bytes: Ed25519 seed, X25519 scalar.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut signing = Zeroizing::new([0u8; 32]);
        let mut exchange = Zeroizing::new([0u8; 32]);
        let (a, b) = bytes.split_at(32);
        signing.copy_from_slice(a);
        exchange.copy_from_slice(b);
        Self { signing: SigningKey::from_bytes(&signing), exchange: StaticSecret::from(*exchange) }
    }

    /// The 64 secret bytes, to be stored where only their owner reads.
    #[must_use]
    pub fn to_bytes(&self) -> Secret<[u8; 64]> {
        let mut out = Secret::new([0u8; 64]);
        let (a, b) = out.expose_mut().split_at_mut(32);
        a.copy_from_slice(self.signing.as_bytes());
        b.copy_from_slice(self.exchange.as_bytes());
        out
    }

    /// The public verification key.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.signing.verifying_key().to_bytes())
    }

    /// The public exchange key.
    #[must_use]
    pub fn exchange_key(&self) -> ExchangeKey {
        ExchangeKey(PublicKey::from(&self.exchange).to_bytes())
    }

    /// Signs `message` under a domain; deterministic (RFC 8032).
    #[must_use]
    pub fn sign(&self, domain: &str, message: &[u8]) -> [u8; 64] {
        self.signing.sign(&digest(domain, message)).to_bytes()
    }

    /// A seed that only the holder of these keys can compute, one for each domain and message.
    ///
    /// What is made from it can be made again after a restart, to the bit, without keeping it.
    #[must_use]
    pub fn derive_seed(&self, domain: &str, message: &[u8]) -> Secret<[u8; 32]> {
        let mut ikm = Zeroizing::new([0u8; 64]);
        ikm.copy_from_slice(self.to_bytes().expose());
        let mut seed = Secret::new([0u8; 32]);
        Hkdf::<Sha256>::new(Some(b"quorate/seed/1"), ikm.as_ref())
            .expand(&digest(domain, message), seed.expose_mut())
            .unwrap_or_else(|_| unreachable!("a legal HKDF length"));
        seed
    }

    /// Opens what was sealed to this identity's exchange key with the same `info`; `None` when it
    /// was not.
    #[must_use]
    pub fn open_sealed(&self, info: &[u8], sealed: &[u8]) -> Option<Secret<Vec<u8>>> {
        let (key, ciphertext) = sealed.split_at_checked(32)?;
        let key = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(key).ok()?;
        let secret = Zeroizing::new(self.exchange.to_bytes());
        let own = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret.as_slice()).ok()?;
        hpke::single_shot_open::<SealAead, SealKdf, X25519HkdfSha256>(
            &OpModeR::Base,
            &own,
            &key,
            info,
            ciphertext,
            &[],
        )
        .ok()
        .map(Secret::new)
    }

    /// Derives the key shared with `peer`.
    ///
    /// # Errors
    /// [`ZeroSharedSecret`] when the peer's key is of small order.
    pub fn shared_key(
        &self,
        peer: &ExchangeKey,
        binding: &KeyBinding<'_>,
    ) -> Result<SharedKey, ZeroSharedSecret> {
        let secret = self.exchange.diffie_hellman(&PublicKey::from(peer.0));
        if !secret.was_contributory() {
            return Err(ZeroSharedSecret);
        }
        let mut info = Vec::with_capacity(256);
        info.extend_from_slice(b"quorate/shared-key/1");
        info.push(KEM_X25519);
        for part in [binding.tenant, binding.authority, binding.party] {
            info.extend_from_slice(&(part.len() as u64).to_le_bytes());
            info.extend_from_slice(part.as_bytes());
        }
        info.extend_from_slice(&binding.authority_key.0);
        info.extend_from_slice(&binding.party_key.0);
        info.extend_from_slice(&binding.epoch.to_le_bytes());
        let mut key = Secret::new([0u8; 32]);
        Hkdf::<Sha256>::new(None, secret.as_bytes())
            .expand(&info, key.expose_mut())
            .unwrap_or_else(|_| unreachable!("32 bytes is a legal HKDF length"));
        Ok(SharedKey(key))
    }
}

/// What a shared key is bound to besides the Diffie-Hellman secret.
#[derive(Clone, Copy, Debug)]
pub struct KeyBinding<'a> {
    /// Tenant of the deployment.
    pub tenant: &'a str,
    /// Authority id.
    pub authority: &'a str,
    /// Party id.
    pub party: &'a str,
    /// Authority's exchange key.
    pub authority_key: ExchangeKey,
    /// Party's exchange key.
    pub party_key: ExchangeKey,
    /// The party's key epoch.
    pub epoch: u32,
}

/// A 32-byte key that two peers share; never leaves the process.
///
/// ```compile_fail,E0277
/// println!("{:?}", quorate_crypto::keys::SharedKey::from_bytes([7; 32]));
/// ```
/// ```compile_fail,E0599
/// let _ = quorate_crypto::keys::SharedKey::from_bytes([7; 32]).clone();
/// ```
/// ```compile_fail,E0277
/// fn stored<T: serde::Serialize>(_: &T) {}
/// stored(&quorate_crypto::keys::SharedKey::from_bytes([7; 32]));
/// ```
pub struct SharedKey(pub(crate) Secret<[u8; 32]>);

impl SharedKey {
    /// A key from its bytes, for tests and benches.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }
}

/// The peer's exchange key is of small order: no secret came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer's exchange key yields a zero shared secret")]
pub struct ZeroSharedSecret;

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn identities() -> [Identity; 2] {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        [(); 2].map(|()| Identity::generate(&mut rng))
    }

    fn binding<'a>(authority: &Identity, party: &Identity) -> KeyBinding<'a> {
        KeyBinding {
            tenant: "tenant",
            authority: "ka",
            party: "bank",
            authority_key: authority.exchange_key(),
            party_key: party.exchange_key(),
            epoch: 3,
        }
    }

    #[test]
    fn both_sides_derive_one_key_bound_to_every_field() {
        let [authority, party] = identities();
        let right = binding(&authority, &party);
        let at_party = party.shared_key(&authority.exchange_key(), &right).unwrap();
        let at_authority = authority.shared_key(&party.exchange_key(), &right).unwrap();
        assert!(at_party.0.ct_eq(&at_authority.0));
        for other in [
            KeyBinding { tenant: "tenan", authority: "tka", ..right },
            KeyBinding { authority: "kb", ..right },
            KeyBinding { party: "bank2", ..right },
            KeyBinding { authority_key: party.exchange_key(), ..right },
            KeyBinding { party_key: authority.exchange_key(), ..right },
            KeyBinding { epoch: 4, ..right },
        ] {
            let key = party.shared_key(&authority.exchange_key(), &other).unwrap();
            assert!(!key.0.ct_eq(&at_party.0), "{other:?}");
        }
    }

    #[test]
    fn small_order_keys_are_refused() {
        let [authority, party] = identities();
        let binding = binding(&authority, &party);
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            let key = party.shared_key(&ExchangeKey(point), &binding);
            assert_eq!(key.err(), Some(ZeroSharedSecret));
        }
    }

    #[test]
    fn sealed_bytes_open_for_their_owner_only() {
        let [owner, other] = identities();
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let sealed = owner.exchange_key().seal(b"info", b"secret", &mut rng).unwrap();
        assert_eq!(sealed.len(), b"secret".len() + SEALED_OVERHEAD);
        assert_eq!(owner.open_sealed(b"info", &sealed).unwrap().expose(), b"secret");
        assert!(owner.open_sealed(b"inf", &sealed).is_none());
        assert!(other.open_sealed(b"info", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(owner.open_sealed(b"info", &altered).is_none(), "{at}");
            assert!(owner.open_sealed(b"info", &sealed[..at]).is_none(), "{at}");
        }
        assert!(ExchangeKey([0; 32]).seal(b"info", b"secret", &mut rng).is_none());
    }

    #[test]
    fn signatures_are_bound_to_domain_and_message() {
        let [signer, other] = identities();
        let signature = signer.sign("domain", b"message");
        let key = signer.verify_key();
        assert!(key.verify("domain", b"message", &signature));
        assert!(!key.verify("domai", b"nmessage", &signature));
        assert!(!key.verify("domain", b"messagf", &signature));
        assert!(!other.verify_key().verify("domain", b"message", &signature));
        assert!(!VerifyKey([0; 32]).verify("domain", b"message", &signature));
    }

    #[test]
    fn identities_come_back_from_their_bytes() {
        let [identity, _] = identities();
        let bytes = identity.to_bytes();
        let back = Identity::from_bytes(bytes.expose());
        assert_eq!(back.verify_key(), identity.verify_key());
        assert_eq!(back.exchange_key(), identity.exchange_key());
    }
}
