//! Names, signatures and the two ways to read a peer's bytes: [`Signed`] is what arrived,
//! [`Verified`] is what a check produced. A state that needs a checked message holds the second, so
//! a forgotten check does not compile.

use core::fmt;
use core::marker::PhantomData;

use quorate_crypto::keys::{Identity, VerifyKey};
use quorate_crypto::merkle::{Hash, hash_parts};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::refusal::{Code, Refusal};

/// Largest control message accepted, in bytes; vectors never travel in one.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The id of a tenant, party or authority: 1 to 64 of `a-z 0-9 . _ -`, starting with a letter or
/// digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the text is not a name.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ok = text.len() <= MAX_NAME_BYTES
            && text.bytes().next().is_some_and(legal)
            && text.bytes().all(|b| legal(b) || matches!(b, b'.' | b'_' | b'-'));
        if !ok {
            return Err(Refusal::new(
                Code::Malformed,
                "a name is 1 to 64 of a-z, 0-9, '.', '_', '-', and starts with a letter or digit",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|refusal| D::Error::custom(refusal.detail))
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("..")
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (a, b) = self.0.split_at(32);
        let halves: ([u8; 32], [u8; 32]) =
            (a.try_into().unwrap_or([0; 32]), b.try_into().unwrap_or([0; 32]));
        halves.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (a, b) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut out = [0; 64];
        let (left, right) = out.split_at_mut(32);
        left.copy_from_slice(&a);
        right.copy_from_slice(&b);
        Ok(Self(out))
    }
}

/// A message body that is signed on its own.
pub trait Body: Sized {
    /// Domain of its signature, with a version.
    const DOMAIN: &'static str;

    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8>;

    /// The body in `bytes`, all of which must be used.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal>;
}

/// Encodes with postcard. Our own types cannot fail to encode: they hold no maps of unknown length.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap_or_default()
}

/// Decodes with postcard and refuses bytes left over.
///
/// # Errors
/// [`Code::Malformed`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Refusal::new(Code::TooLarge, "message over 4 MiB"));
    }
    decode_own(bytes)
}

/// As [`decode`] for bytes of our own store, which no message bounds.
///
/// # Errors
/// [`Code::Malformed`].
pub fn decode_own<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(Refusal::new(Code::Malformed, "bytes left over after the message")),
        Err(_) => Err(Refusal::new(Code::Malformed, "not a message of this type")),
    }
}

/// Implements [`Body`] with postcard.
#[macro_export]
macro_rules! postcard_body {
    ($type:ty, $domain:literal) => {
        impl $crate::wire::Body for $type {
            const DOMAIN: &'static str = $domain;

            fn to_bytes(&self) -> Vec<u8> {
                $crate::wire::encode(self)
            }

            fn from_bytes(bytes: &[u8]) -> Result<Self, $crate::refusal::Refusal> {
                $crate::wire::decode(bytes)
            }
        }
    };
}

/// A body with a signature nobody has checked yet. The bytes are kept as they came, so what is
/// forwarded is what was signed.
pub struct Signed<T> {
    body: Vec<u8>,
    signature: Signature,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { body: self.body.clone(), signature: self.signature, kind: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T: Body> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed<{}>({} bytes)", T::DOMAIN, self.body.len())
    }
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.body, &self.signature).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Signed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (body, signature) = <(Vec<u8>, Signature)>::deserialize(deserializer)?;
        Ok(Self { body, signature, kind: PhantomData })
    }
}

impl<T: Body> Signed<T> {
    /// Signs `value` with `identity`.
    #[must_use]
    pub fn sign(value: T, identity: &Identity) -> Verified<T> {
        let body = value.to_bytes();
        let signature = Signature(identity.sign(T::DOMAIN, &body));
        Verified { value, signed: Self { body, signature, kind: PhantomData } }
    }

    /// From a body and a signature as they came.
    #[must_use]
    pub const fn from_parts(body: Vec<u8>, signature: Signature) -> Self {
        Self { body, signature, kind: PhantomData }
    }

    /// The body's bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The signature.
    #[must_use]
    pub const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Decodes the body without checking who signed it: to learn whose key to check it with.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    pub fn peek(&self) -> Result<T, Refusal> {
        T::from_bytes(&self.body)
    }

    /// Checks the signature and decodes.
    ///
    /// # Errors
    /// [`Code::BadSignature`], [`Code::Malformed`].
    pub fn verify(&self, key: &VerifyKey) -> Result<Verified<T>, Refusal> {
        if !crate::checks::holds(
            crate::checks::Check::Signature,
            key.verify(T::DOMAIN, &self.body, &self.signature.0),
        ) {
            return Err(Refusal::new(Code::BadSignature, "the signature does not verify"));
        }
        Ok(Verified { value: T::from_bytes(&self.body)?, signed: self.clone() })
    }

    /// Hash of body and signature.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash_parts("quorate/signed/1", &[T::DOMAIN.as_bytes(), &self.body, &self.signature.0])
    }
}

/// A body whose signature was checked (or made) here. It is built by [`Signed::verify`] and
/// [`Signed::sign`] only, and read back from this process's own stored state.
pub struct Verified<T> {
    value: T,
    signed: Signed<T>,
}

impl<T: Body> Verified<T> {
    /// The bytes to forward.
    #[must_use]
    pub const fn signed(&self) -> &Signed<T> {
        &self.signed
    }

    /// Hash of body and signature.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.signed.hash()
    }
}

impl<T> core::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Clone> Clone for Verified<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), signed: self.signed.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Serialize for Verified<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.signed.serialize(serializer)
    }
}

impl<'de, T: Body> Deserialize<'de> for Verified<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let signed = Signed::<T>::deserialize(deserializer)?;
        let value = signed.peek().map_err(|refusal| D::Error::custom(refusal.detail))?;
        Ok(Self { value, signed })
    }
}
