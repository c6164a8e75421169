//! Functional encryption for sums: parties encrypt under keys shared with authorities, and one
//! functional key per label opens one sum.

use core::ops::Range;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize;

use crate::secret::Secret;
use crate::sum::{KeyedNonce, Role, SchemeError, Step, SumContext, SumShape};

pub mod ddh;
pub mod keystream;
#[cfg(any(test, feature = "lab-mife-ref"))]
pub mod mife;
pub mod pad;
pub mod product;
#[cfg(any(test, feature = "lab-mife-ref"))]
pub mod sife;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod attacks_vertical;
#[cfg(test)]
mod vectors;

/// Most authorities of one sum.
pub const MAX_AUTHORITIES: u32 = 4;

/// The step in which parties submit ciphertexts.
pub const SUBMIT: usize = 0;
/// The step in which authorities release functional keys.
pub const KEY: usize = 1;

const STEPS: &[Step] =
    &[Step { name: "submit", by: Role::Party }, Step { name: "key", by: Role::Authority }];

/// What every scheme of this family asks of a shape.
fn check_shape(shape: &SumShape) -> Result<(), SchemeError> {
    if shape.dim == 0 {
        return Err(SchemeError::Shape("a sum needs at least one coordinate"));
    }
    if shape.parties < 2 {
        return Err(SchemeError::Shape("a sum needs at least two parties"));
    }
    if !(1..=MAX_AUTHORITIES).contains(&shape.authorities) {
        return Err(SchemeError::Shape("one to four authorities"));
    }
    Ok(())
}

/// A party brings one key per authority, an authority one per member. A key over a single member
/// would open that member's plaintext and is refused.
fn check_keys(step: usize, shape: &SumShape, keys: &[KeyedNonce<'_>]) -> Result<(), SchemeError> {
    let (least, most) = match step {
        SUBMIT => (shape.authorities, shape.authorities),
        KEY => (2, shape.parties),
        _ => return Err(SchemeError::WrongStep),
    };
    let got = keys.len();
    let [least, most] = [least, most].map(|bound| usize::try_from(bound).unwrap_or(usize::MAX));
    if got < least {
        return Err(SchemeError::Keys { expected: least, got });
    }
    if got > most {
        return Err(SchemeError::Keys { expected: most, got });
    }
    Ok(())
}

fn check_members(shape: &SumShape, members: u32) -> Result<(), SchemeError> {
    if (2..=shape.parties).contains(&members) {
        Ok(())
    } else {
        Err(SchemeError::Shape("a sum is over two members or more, and at most the roster"))
    }
}

/// Derives `N` bytes for one (key, label, nonce) under a domain; suite and ring are bound in, so
/// that no two configurations ever share a byte.
fn derive<const N: usize>(
    domain: &'static [u8],
    context: &SumContext,
    keyed: &KeyedNonce<'_>,
) -> Secret<[u8; N]>
where
    [u8; N]: Zeroize,
{
    let bits = context.shape.ring.bits().to_le_bytes();
    // Unambiguous: the domain is a constant and every other part has a fixed length.
    let info: [&[u8]; 5] =
        [domain, &[context.suite.number()], &bits, &context.label.0, &keyed.nonce.0];
    let mut out = Secret::new([0u8; N]);
    Hkdf::<Sha256>::from_prk(keyed.key.0.expose())
        .unwrap_or_else(|_| unreachable!("32 bytes is a legal HKDF key"))
        .expand_multi_info(&info, out.expose_mut())
        .unwrap_or_else(|_| unreachable!("a legal HKDF length"));
    out
}

/// Number of coordinates in `range`, which must lie within the sum.
fn count(range: &Range<u64>, shape: &SumShape) -> Result<usize, SchemeError> {
    let bad = SchemeError::Range { start: range.start, end: range.end, dim: shape.dim };
    if range.end > shape.dim {
        return Err(bad);
    }
    let count = range.end.checked_sub(range.start).ok_or(bad.clone())?;
    usize::try_from(count).map_err(|_| bad)
}

/// Refuses a buffer that is not `count` elements of `width` bytes.
fn check_len(bytes: &[u8], count: usize, width: usize) -> Result<(), SchemeError> {
    let expected = count.saturating_mul(width);
    if bytes.len() == expected {
        Ok(())
    } else {
        Err(SchemeError::Length { expected, got: bytes.len() })
    }
}

/// Refuses to open unless every member's ciphertext and every authority's key came in.
fn check_absorbed(absorbed: [u32; 2], members: u32, authorities: u32) -> Result<(), SchemeError> {
    for (step, (got, expected)) in absorbed.into_iter().zip([members, authorities]).enumerate() {
        if got != expected {
            return Err(SchemeError::Messages { step, expected, got });
        }
    }
    Ok(())
}
