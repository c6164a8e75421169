//! Exchanges Paillier ciphertexts with another implementation, as JSON files, over the insecure test
//! primes. `scripts/phe_interop.sh` runs both sides.
//!
//! `phe_interop write FILE`: three parties' replies, their sum, and how values lie in plaintexts.
//! `phe_interop open FILE`: opens ciphertexts of the other implementation with the authority's and
//! two of three holders' shares and compares with the values the file states.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter};

use quorate_crypto::keys::Identity;
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Ring, SumShape};
use quorate_crypto::threshold::conformance::{KeyFixture, Summed, binding, values};
use quorate_crypto::threshold::paillier::PAILLIER;
use quorate_crypto::threshold::paillier::testkit::{INSECURE_TEST_PRIMES, dealer_from_primes};
use quorate_crypto::threshold::{KeyPost, KeySecret, KeySetup, ThresholdScheme};
use serde_json::{Value, json};

const PARTIES: u32 = 3;
/// Bytes of a ciphertext.
const CIPHER_BYTES: usize = 768;
const SHAPE: SumShape =
    SumShape { ring: Ring::Z64, dim: 100, parties: PARTIES, authorities: 1, bits: 32 };

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", path] => write(path),
        ["open", path] => open(path),
        _ => Err("usage: phe_interop write|open FILE".into()),
    }
}

fn fixture() -> KeyFixture {
    let post = |setup: &KeySetup<'_>,
                _: usize,
                _: (u32, &Identity),
                _: &KeySecret,
                _: &[KeyPost],
                seed: &Secret<[u8; 32]>| {
        dealer_from_primes(PAILLIER, setup, INSECURE_TEST_PRIMES, seed)
    };
    KeyFixture::run_with(&PAILLIER, 3, 2, 1, &post)
}

/// Big-endian hexadecimal of little-endian bytes.
fn to_hex(little: &[u8]) -> String {
    hex::encode(little.iter().rev().copied().collect::<Vec<u8>>())
}

fn ciphers(reply: &[u8], count: usize) -> Vec<String> {
    reply.chunks_exact(CIPHER_BYTES).take(count).map(to_hex).collect()
}

fn write(path: &str) -> Fallible<()> {
    let fixture = fixture();
    let key = PAILLIER.load(&fixture.public)?;
    let mut sum = key.sum(&SHAPE);
    let mut parties = Vec::new();
    let count = sum.to_bytes().len() / CIPHER_BYTES;
    for party in 0..PARTIES {
        let plain = values(&SHAPE, party, 1);
        let mut reply = vec![0; PAILLIER.reply_bytes(&SHAPE).ok_or("no such shape")?];
        key.encrypt(&SHAPE, &binding(party), &plain, &Secret::new([1; 32]), &mut reply)?;
        sum.add(&reply)?;
        parties.push(json!({ "values": plain, "ciphertexts": ciphers(&reply, count) }));
    }
    let file = json!({
        "p": INSECURE_TEST_PRIMES[0],
        "q": INSECURE_TEST_PRIMES[1],
        "bits": SHAPE.bits,
        "most_parties": PARTIES,
        "parties": parties,
        "sum": ciphers(&sum.to_bytes(), count),
    });
    Ok(serde_json::to_writer(BufWriter::new(File::create(path)?), &file)?)
}

fn open(path: &str) -> Fallible<()> {
    let file: Value = serde_json::from_reader(BufReader::new(File::open(path)?))?;
    let fixture = fixture();
    let key = PAILLIER.load(&fixture.public)?;
    let mut sum = key.sum(&SHAPE);
    let parties = file["parties"].as_array().ok_or("no parties")?;
    let mut plains = Vec::new();
    for party in parties {
        // A sum adds ciphertexts whose proof was checked before; the other side makes none.
        let mut reply = vec![0; PAILLIER.reply_bytes(&SHAPE).ok_or("no such shape")?];
        let theirs = party["ciphertexts"].as_array().ok_or("no ciphertexts")?;
        if theirs.len() * CIPHER_BYTES != sum.to_bytes().len() {
            return Err("another number of ciphertexts".into());
        }
        for (out, c) in reply.chunks_exact_mut(CIPHER_BYTES).zip(theirs) {
            out.copy_from_slice(&hex::decode(c.as_str().ok_or("no string")?)?);
            out.reverse();
        }
        sum.add(&reply)?;
        plains.push(serde_json::from_value::<Vec<i64>>(party["values"].clone())?);
    }
    let summed = Summed::of(&PAILLIER, &fixture, SHAPE, plains, sum, 1);
    let opened = summed.open(&[0, 1, 3])?;
    let expected = serde_json::from_value::<Vec<i64>>(file["sum"].clone())?;
    if opened == expected {
        println!("opened {} values of {} parties, equal", opened.len(), parties.len());
        Ok(())
    } else {
        Err("the opened sum is not the plain one".into())
    }
}
