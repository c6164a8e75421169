//! Key generation without a dealer: Pedersen's, every step of it public and checkable by all.
//!
//! Pedersen (EUROCRYPT 1991), with shares encrypted pairwise in public and complaints that open one
//! of them, as in Schindler, Judmayer, Stifter, Weippl, *EthDKG* (ePrint 2019/985), section 4:
//!
//! 1. every holder i: a fresh receive key R_i = r_i G with a proof of possession, and a hash of its
//!    Feldman commitments, so that nobody chooses its polynomial after having seen another;
//! 2. every holder i: C_ik = a_ik G for k < T, a proof of knowledge of a_i0, and for each holder j
//!    its share f_i(j), padded under the Diffie-Hellman key of (R_i, R_j);
//! 3. every holder j: the hash of all it saw, or a complaint against one dealer i: the point r_j R_i
//!    with a Chaum-Pedersen proof, from which everyone decrypts that share and sees whether it fits
//!    C_i;
//! 4. the authority: Y_A with a proof of possession over all that was posted.
//!
//! Y_B = sum_i C_i0, X_j = sum_i f_i(j) G, x_j = sum_i f_i(j).
//!
//! | post | bytes |
//! |---|---|
//! | 1 | R_i, proof (64), hash (32) |
//! | 2 | C_i0 .. C_i,T-1, proof (64), N padded shares (32 each) |
//! | 3 | 0 and a hash (32), or 1, dealer (4), point, proof (64) |
//! | 4 | Y_A, proof (64) |
//!
//! # Security
//! There is no set of qualified dealers: any fault names its culprit and ends this key, and the
//! protocol makes another without it. An open complaint costs nothing, as that key is dropped. An
//! adversary that stops keys it does not like biases Y_B by as many bits at most as it has
//! participants to lose; ElGamal's security is not touched by that (Gennaro, Jarecki, Krawczyk,
//! Rabin, J. Cryptology 20, 2007, section 5). Proofs of knowledge over the call and the number keep
//! anybody from answering with a key made of others' keys. Pads need no tag: the commitments check
//! what comes out of them, and r_i serves one call.

use std::collections::BTreeMap;

use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key::PublicKey;
use super::proof::{
    Draw, PROOF_BYTES, Transcript, equal_holds, evaluate_vartime, matches, point, possession_holds,
    proper_point, prove_equal, prove_possession, scalar,
};
use crate::keys::Identity;
use crate::secret::Secret;
use crate::sum::{Role, SchemeError, Step};
use crate::threshold::{AUTHORITY, KeyFault, KeyPost, KeySecret, KeySetup, MAX_HOLDERS};

/// The steps, the authority's last.
pub static KEY_STEPS: &[Step] = &[
    Step { name: "receive key and commitment", by: Role::Decryptor },
    Step { name: "dealing", by: Role::Decryptor },
    Step { name: "confirmation or complaint", by: Role::Decryptor },
    Step { name: "authority's key", by: Role::Authority },
];

const RECEIVE: u16 = 0;
const DEALING: u16 = 1;
const VERDICT: u16 = 2;
const FINAL: u16 = 3;

const CONFIRMED: u8 = 0;
const COMPLAINT: u8 = 1;

/// First byte of a stored secret: r_i and the polynomial.
const SECRET_DEALER: u8 = 1;
/// First byte of a stored secret: r_i.
const SECRET_RECEIVER: u8 = 2;
/// First byte of a stored secret: a share of the key.
const SECRET_SHARE: u8 = 3;

/// A holder's first post.
struct Receive {
    key: RistrettoPoint,
    bytes: [u8; 32],
    commitment: [u8; 32],
}

/// A holder's second post.
struct Dealing {
    commitments: Vec<RistrettoPoint>,
    shares: Vec<[u8; 32]>,
}

/// All posts, by step and number, in shape.
struct Board<'a> {
    setup: &'a KeySetup<'a>,
    holders: u32,
    threshold: usize,
    posts: BTreeMap<(u16, u32), &'a [u8]>,
}

/// What checked posts say.
#[derive(Default)]
struct Said {
    receive: BTreeMap<u32, Receive>,
    dealings: BTreeMap<u32, Dealing>,
    authority: Option<RistrettoPoint>,
}

const fn fault(from: u32, why: &'static str) -> KeyFault {
    KeyFault { from, why }
}

/// Reads a post front to back.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(first)
    }

    /// `value`, if nothing is left over.
    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

impl<'a> Board<'a> {
    /// Refuses posts nobody may make and second ones.
    fn new(setup: &'a KeySetup<'a>, posts: &'a [KeyPost]) -> Result<Self, KeyFault> {
        let holders = u32::try_from(setup.holders.len()).unwrap_or(u32::MAX);
        if holders > MAX_HOLDERS || !(1..=holders).contains(&setup.threshold) {
            return Err(fault(AUTHORITY, "no such number of holders or threshold"));
        }
        let mut board =
            Self { setup, holders, threshold: setup.threshold as usize, posts: BTreeMap::new() };
        for post in posts {
            if !board.posters(post.step).contains(&post.from) {
                return Err(fault(post.from, "a post that is not its to make"));
            }
            if board.posts.insert((post.step, post.from), &post.bytes).is_some() {
                return Err(fault(post.from, "a second post in one step"));
            }
        }
        let early = board.posts.keys().find(|(step, _)| board.missing(*step).is_some());
        if let Some((_, from)) = early {
            return Err(fault(*from, "a post before its step was open"));
        }
        Ok(board)
    }

    /// Who posts in a step.
    fn posters(&self, step: u16) -> Vec<u32> {
        match step {
            RECEIVE | DEALING | VERDICT => (1..=self.holders).collect(),
            FINAL => vec![AUTHORITY],
            _ => Vec::new(),
        }
    }

    /// The first participant whose post of a step before `step` is missing.
    fn missing(&self, step: u16) -> Option<u32> {
        (RECEIVE..step).find_map(|step| {
            self.posters(step).into_iter().find(|from| !self.posts.contains_key(&(step, *from)))
        })
    }

    fn statement(&self, domain: &str, from: u32) -> Transcript {
        Transcript::new(domain).with(&self.setup.context).with(&from.to_le_bytes())
    }

    /// Hash of everything posted before `step`.
    fn seen(&self, step: u16) -> [u8; 32] {
        let mut said = Transcript::new("seen")
            .with(&self.setup.context)
            .with(&self.holders.to_le_bytes())
            .with(&self.setup.threshold.to_le_bytes());
        for ((step, from), bytes) in self.posts.iter().filter(|((posted, _), _)| *posted < step) {
            said.add(&step.to_le_bytes());
            said.add(&from.to_le_bytes());
            said.add(bytes);
        }
        said.digest()
    }

    fn commitment(&self, from: u32, points: &[u8]) -> [u8; 32] {
        self.statement("commitment", from).with(points).digest()
    }

    /// The checked posts.
    fn read(&self) -> Result<Said, KeyFault> {
        let mut said = Said::default();
        for ((step, from), bytes) in &self.posts {
            let from = *from;
            match *step {
                RECEIVE => {
                    said.receive.insert(from, self.read_receive(from, bytes)?);
                }
                DEALING => {
                    let dealing = self.read_dealing(&said, from, bytes)?;
                    said.dealings.insert(from, dealing);
                }
                VERDICT => self.read_verdict(&said, from, bytes)?,
                _ => said.authority = Some(self.read_final(bytes)?),
            }
        }
        Ok(said)
    }

    fn read_receive(&self, from: u32, bytes: &[u8]) -> Result<Receive, KeyFault> {
        let parse = || {
            let mut reader = Reader(bytes);
            let (bytes, proof, commitment) = (reader.take()?, reader.take()?, reader.take()?);
            reader.end((bytes, proof, *commitment))
        };
        let (bytes, proof, commitment) =
            parse().ok_or(fault(from, "a malformed receive key post"))?;
        let key = proper_point(bytes).ok_or(fault(from, "a receive key that is no point"))?;
        if !possession_holds(self.statement("receive key", from), &key, proof) {
            return Err(fault(from, "no proof of possession of its receive key"));
        }
        Ok(Receive { key, bytes: *bytes, commitment })
    }

    fn read_dealing(&self, said: &Said, from: u32, bytes: &[u8]) -> Result<Dealing, KeyFault> {
        let parse = || {
            let (points, rest) = bytes.split_at_checked(self.threshold.checked_mul(32)?)?;
            let (proof, shares) = rest.split_first_chunk::<PROOF_BYTES>()?;
            let (shares, left) = shares.as_chunks::<32>();
            let whole = left.is_empty() && shares.len() == self.holders as usize;
            whole.then_some((points, proof, shares))
        };
        let (points, proof, shares) = parse().ok_or(fault(from, "a malformed dealing"))?;
        let committed = said.receive.get(&from).map(|receive| receive.commitment);
        if committed != Some(self.commitment(from, points)) {
            return Err(fault(from, "a dealing other than the one it committed to"));
        }
        let commitments: Vec<_> = points
            .as_chunks()
            .0
            .iter()
            .map(|bytes| point(bytes).ok_or(fault(from, "a commitment that is no point")))
            .collect::<Result<_, _>>()?;
        let first = commitments
            .first()
            .filter(|first| !first.is_identity())
            .ok_or(fault(from, "a dealing of nothing"))?;
        if !possession_holds(self.statement("dealing", from), first, proof) {
            return Err(fault(from, "no proof of knowledge of its dealing"));
        }
        Ok(Dealing { commitments, shares: shares.to_vec() })
    }

    fn read_verdict(&self, said: &Said, from: u32, bytes: &[u8]) -> Result<(), KeyFault> {
        let malformed = fault(from, "a malformed confirmation or complaint");
        let mut reader = Reader(bytes);
        match reader.take::<1>() {
            Some([CONFIRMED]) => {
                let seen = reader.take::<32>().copied();
                let seen = seen.and_then(|seen| reader.end(seen)).ok_or(malformed)?;
                if seen != self.seen(VERDICT) {
                    return Err(fault(from, "a confirmation of other posts"));
                }
                Ok(())
            }
            Some([COMPLAINT]) => {
                let parse = || {
                    let (dealer, opened, proof) = (reader.take()?, reader.take()?, reader.take()?);
                    reader.end((u32::from_le_bytes(*dealer), point(opened)?, proof))
                };
                let (dealer, opened, proof) = parse().ok_or(malformed)?;
                Err(self.judge(said, from, dealer, &opened, proof))
            }
            _ => Err(malformed),
        }
    }

    /// Who is at fault in a complaint: the dealer, or the one who complains.
    fn judge(
        &self,
        said: &Said,
        from: u32,
        dealer: u32,
        opened: &RistrettoPoint,
        proof: &[u8; PROOF_BYTES],
    ) -> KeyFault {
        let (Some(mine), Some(theirs)) = (said.receive.get(&from), said.receive.get(&dealer))
        else {
            return fault(from, "a complaint against nobody");
        };
        let statement = self.statement("complaint", from).with(&dealer.to_le_bytes());
        if !equal_holds(statement, &mine.key, &theirs.key, opened, proof) {
            return fault(from, "a complaint without proof");
        }
        match self.open_share(said, dealer, from, opened) {
            Some(_) => fault(from, "a complaint against a good share"),
            None => fault(dealer, "a share that does not match its commitments"),
        }
    }

    /// The pad of the share that `dealer` gives to `holder`, whose receive keys have the
    /// Diffie-Hellman point `common`.
    fn pad(
        &self,
        said: &Said,
        dealer: u32,
        holder: u32,
        common: &RistrettoPoint,
    ) -> Secret<[u8; 32]> {
        let receive = |number| said.receive.get(&number).map_or([0; 32], |receive| receive.bytes);
        let common = Zeroizing::new(common.compress().to_bytes());
        let mut out = Secret::new([0; 32]);
        Hkdf::<Sha256>::new(None, common.as_ref())
            .expand_multi_info(
                &[
                    b"quorate/elgamal/share/1",
                    &self.setup.context,
                    &dealer.to_le_bytes(),
                    &holder.to_le_bytes(),
                    &receive(dealer),
                    &receive(holder),
                ],
                out.expose_mut(),
            )
            .unwrap_or_else(|_| unreachable!("32 bytes is a legal HKDF length"));
        out
    }

    /// The share that `dealer` gave to `holder`, if it fits the commitments.
    fn open_share(
        &self,
        said: &Said,
        dealer: u32,
        holder: u32,
        common: &RistrettoPoint,
    ) -> Option<Zeroizing<Scalar>> {
        let dealing = said.dealings.get(&dealer)?;
        let padded = dealing.shares.get(holder.checked_sub(1)? as usize)?;
        let pad = self.pad(said, dealer, holder, common);
        let mut bytes = Zeroizing::new(*padded);
        bytes.iter_mut().zip(pad.expose()).for_each(|(byte, pad)| *byte ^= pad);
        let share = Zeroizing::new(scalar(&bytes)?);
        let expected = evaluate_vartime(&dealing.commitments, holder);
        matches(&share, &expected).then_some(share)
    }

    fn read_final(&self, bytes: &[u8]) -> Result<RistrettoPoint, KeyFault> {
        let parse = || {
            let mut reader = Reader(bytes);
            let (key, proof) = (reader.take()?, reader.take()?);
            reader.end((key, proof))
        };
        let (key, proof) = parse().ok_or(fault(AUTHORITY, "a malformed authority key"))?;
        let key = proper_point(key).ok_or(fault(AUTHORITY, "a key that is no point"))?;
        if !possession_holds(self.final_statement(), &key, proof) {
            return Err(fault(AUTHORITY, "no proof of possession of its key over these posts"));
        }
        Ok(key)
    }

    fn final_statement(&self) -> Transcript {
        self.statement("authority key", AUTHORITY).with(&self.seen(FINAL))
    }

    /// The public key, once all posts are there.
    fn public_key(&self, said: &Said) -> Result<PublicKey, KeyFault> {
        if let Some(missing) = self.missing(FINAL) {
            return Err(fault(missing, "its post is missing"));
        }
        let authority = said.authority.ok_or(fault(AUTHORITY, "its post is missing"))?;
        let mut sums = vec![RistrettoPoint::default(); self.threshold];
        for dealing in said.dealings.values() {
            sums.iter_mut().zip(&dealing.commitments).for_each(|(sum, point)| *sum += point);
        }
        let shares = (1..=self.holders).map(|j| evaluate_vartime(&sums, j)).collect();
        let together = sums.first().copied().unwrap_or_default();
        PublicKey::new(self.setup.threshold, authority, together, shares)
            // Only if all holders made their dealings together.
            .ok_or(fault(1, "the holders' dealings cancel out"))
    }
}

fn refused(fault: KeyFault) -> SchemeError {
    SchemeError::Key(fault.why)
}

/// See [`ThresholdScheme::key_check`](crate::threshold::ThresholdScheme).
pub(super) fn check(setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<(), KeyFault> {
    Board::new(setup, posts)?.read().map(|_| ())
}

/// See [`ThresholdScheme::public_key`](crate::threshold::ThresholdScheme).
pub(super) fn public_key(setup: &KeySetup<'_>, posts: &[KeyPost]) -> Result<Vec<u8>, KeyFault> {
    let board = Board::new(setup, posts)?;
    Ok(board.public_key(&board.read()?)?.to_bytes())
}

/// See [`ThresholdScheme::key_post`](crate::threshold::ThresholdScheme).
pub(super) fn post(
    setup: &KeySetup<'_>,
    step: usize,
    me: (u32, &Identity),
    secret: &KeySecret,
    posts: &[KeyPost],
    seed: &Secret<[u8; 32]>,
) -> Result<(Vec<u8>, KeySecret), SchemeError> {
    let step = u16::try_from(step).map_err(|_| SchemeError::WrongStep)?;
    let board = Board::new(setup, posts).map_err(refused)?;
    let me = checked_number(setup, me)?;
    if !board.posters(step).contains(&me) {
        return Err(SchemeError::WrongStep);
    }
    if board.missing(step).is_some() {
        return Err(SchemeError::Key("the steps before are not complete"));
    }
    let said = board.read().map_err(refused)?;
    let domain = ["receive", "deal", "judge", "authority"].get(usize::from(step));
    let mut draw = Draw::new(
        seed,
        domain.ok_or(SchemeError::WrongStep)?,
        &[&setup.context, &me.to_le_bytes(), &board.seen(step), secret.expose()],
    );
    match step {
        RECEIVE => Ok(board.post_receive(me, &mut draw)),
        DEALING => board.post_dealing(&said, me, secret, &mut draw),
        VERDICT => board.post_verdict(&said, me, secret, &mut draw),
        _ => Ok(board.post_final(&mut draw)),
    }
}

/// See [`ThresholdScheme::key_share`](crate::threshold::ThresholdScheme).
pub(super) fn share(
    setup: &KeySetup<'_>,
    me: (u32, &Identity),
    secret: &KeySecret,
    posts: &[KeyPost],
) -> Result<KeySecret, SchemeError> {
    let me = checked_number(setup, me)?;
    let board = Board::new(setup, posts).map_err(refused)?;
    let said = board.read().map_err(refused)?;
    let public = board.public_key(&said).map_err(refused)?;
    let share = stored_one(secret, SECRET_SHARE)?;
    let expected = public.of(me).ok_or(SchemeError::Key("no such participant"))?;
    if !matches(&share, expected) {
        return Err(SchemeError::Key("a share of another key"));
    }
    let mut out = Secret::new(vec![0; super::key::SHARE_BYTES]);
    let bytes = me.to_le_bytes().into_iter().chain(*share.as_bytes());
    out.expose_mut().iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    Ok(out)
}

/// A participant's number, if its exchange key is the one that the call names.
fn checked_number(setup: &KeySetup<'_>, me: (u32, &Identity)) -> Result<u32, SchemeError> {
    let (number, identity) = me;
    let named = match number.checked_sub(1) {
        None => Some(&setup.authority),
        Some(index) => setup.holders.get(index as usize),
    };
    if named == Some(&identity.exchange_key()) {
        Ok(number)
    } else {
        Err(SchemeError::Key("this number belongs to another participant"))
    }
}

/// Scalars as a secret to keep, `kind` in front.
fn store(kind: u8, scalars: &[Scalar]) -> KeySecret {
    let mut out = Secret::new(vec![0; scalars.len().saturating_mul(32).saturating_add(1)]);
    if let Some((first, rest)) = out.expose_mut().split_first_mut() {
        *first = kind;
        let places = rest.as_chunks_mut::<32>().0;
        places.iter_mut().zip(scalars).for_each(|(to, scalar)| *to = *scalar.as_bytes());
    }
    out
}

/// The scalars of a secret of this kind.
fn stored_all(secret: &KeySecret, kind: u8) -> Result<Zeroizing<Vec<Scalar>>, SchemeError> {
    let wrong = SchemeError::Key("not the secret that its step before left");
    let (first, rest) = secret.expose().split_first().ok_or(wrong.clone())?;
    let (chunks, left) = rest.as_chunks::<32>();
    if *first != kind || !left.is_empty() {
        return Err(wrong);
    }
    let mut out = Zeroizing::new(Vec::with_capacity(chunks.len()));
    for chunk in chunks {
        out.push(scalar(chunk).ok_or(wrong.clone())?);
    }
    Ok(out)
}

/// The only scalar of a secret of this kind.
fn stored_one(secret: &KeySecret, kind: u8) -> Result<Zeroizing<Scalar>, SchemeError> {
    match stored_all(secret, kind)?.as_slice() {
        [one] => Ok(Zeroizing::new(*one)),
        _ => Err(SchemeError::Key("not the secret that its step before left")),
    }
}

/// f(number), by Horner's rule; constant time in the coefficients.
fn evaluate(polynomial: &[Scalar], number: u32) -> Zeroizing<Scalar> {
    let mut value = Zeroizing::new(Scalar::ZERO);
    for coefficient in polynomial.iter().rev() {
        *value = *value * Scalar::from(number) + coefficient;
    }
    value
}

/// Encodings of a polynomial's commitments.
fn commit(polynomial: &[Scalar]) -> Vec<u8> {
    polynomial
        .iter()
        .flat_map(|coefficient| RistrettoPoint::mul_base(coefficient).compress().to_bytes())
        .collect()
}

impl Board<'_> {
    fn post_receive(&self, me: u32, draw: &mut Draw) -> (Vec<u8>, KeySecret) {
        let mut secrets = Zeroizing::new(Vec::with_capacity(self.threshold.saturating_add(1)));
        secrets.extend((0..=self.threshold).map(|_| draw.scalar()));
        let (receive, polynomial) = secrets.split_at(1);
        let mut out = commit(receive);
        for receive in receive {
            out.extend(prove_possession(self.statement("receive key", me), receive, draw));
        }
        out.extend(self.commitment(me, &commit(polynomial)));
        (out, store(SECRET_DEALER, &secrets))
    }

    fn post_dealing(
        &self,
        said: &Said,
        me: u32,
        secret: &KeySecret,
        draw: &mut Draw,
    ) -> Result<(Vec<u8>, KeySecret), SchemeError> {
        let wrong = SchemeError::Key("not the secret of this participant's earlier post");
        let secrets = stored_all(secret, SECRET_DEALER)?;
        let (receive, polynomial) = secrets.split_first().ok_or(wrong.clone())?;
        let first = polynomial.first().ok_or(wrong.clone())?;
        let mut out = commit(polynomial);
        let mine = said.receive.get(&me).ok_or(wrong.clone())?;
        if mine.commitment != self.commitment(me, &out) || !matches(receive, &mine.key) {
            return Err(wrong);
        }
        out.extend(prove_possession(self.statement("dealing", me), first, draw));
        for (holder, theirs) in &said.receive {
            let common = Zeroizing::new(receive * theirs.key);
            let pad = self.pad(said, me, *holder, &common);
            let share = evaluate(polynomial, *holder);
            out.extend(share.as_bytes().iter().zip(pad.expose()).map(|(byte, pad)| byte ^ pad));
        }
        Ok((out, store(SECRET_RECEIVER, &[*receive])))
    }

    fn post_verdict(
        &self,
        said: &Said,
        me: u32,
        secret: &KeySecret,
        draw: &mut Draw,
    ) -> Result<(Vec<u8>, KeySecret), SchemeError> {
        let receive = stored_one(secret, SECRET_RECEIVER)?;
        let mine = said.receive.get(&me).filter(|mine| matches(&receive, &mine.key));
        if mine.is_none() {
            return Err(SchemeError::Key("not the secret of this participant's earlier post"));
        }
        let mut share = Zeroizing::new(Scalar::ZERO);
        for (dealer, theirs) in &said.receive {
            let common = Zeroizing::new(*receive * theirs.key);
            let Some(part) = self.open_share(said, *dealer, me, &common) else {
                let statement = self.statement("complaint", me).with(&dealer.to_le_bytes());
                let (opened, proof) = prove_equal(statement, &receive, &theirs.key, draw);
                let mut out = vec![COMPLAINT];
                out.extend(dealer.to_le_bytes());
                out.extend(opened.compress().to_bytes());
                out.extend(proof);
                // This key is dropped: nothing is left to keep.
                return Ok((out, Secret::new(Vec::new())));
            };
            *share += *part;
        }
        let mut out = vec![CONFIRMED];
        out.extend(self.seen(VERDICT));
        Ok((out, store(SECRET_SHARE, &[*share])))
    }

    fn post_final(&self, draw: &mut Draw) -> (Vec<u8>, KeySecret) {
        let secret = Zeroizing::new(draw.scalar());
        let mut out = RistrettoPoint::mul_base(&secret).compress().to_bytes().to_vec();
        out.extend(prove_possession(self.final_statement(), &secret, draw));
        (out, store(SECRET_SHARE, &[*secret]))
    }
}
