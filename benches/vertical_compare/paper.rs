//! The paper's own scheme: one batch of FedV with multi-input functional encryption on the feature
//! dimension and single-input functional encryption on the sample dimension, both over Ristretto255.
//!
//! Source: Xu et al., *FedV* (arXiv 2103.03918), section 4; the two schemes are the laboratory's
//! `mife-ref` and `sife-ref`, with the leaks that they have there.
//!
//! The aggregator holds the model, reads every row's residual and every gradient. What it reads are
//! discrete logarithms, so numbers are short: features at scale 2^8 and residuals at scale 2^8, where the
//! served scheme has 2^16 for both.

use anyhow::{Context, Result, ensure};
use curve25519_dalek::RistrettoPoint;
use curve25519_dalek::ristretto::CompressedRistretto;
use quorate_crypto::dlog;
use quorate_crypto::fe::{mife, sife};
use quorate_protocols::fedv::linear::Features;
use rand_chacha::ChaCha20Rng;

use crate::cost::{Cost, measured};

/// Bits by which features lose resolution: from scale 2^16 to 2^8.
const FEATURE_SHIFT: u32 = 8;
/// From scores at scale 2^36 to 2^16.
const SCORE_SHIFT: u32 = 20;
/// From 4u at scale 2^16 to u at scale 2^8.
const RESIDUAL_SHIFT: u32 = 10;
/// Bound on 4u at scale 2^16: |u| up to 16.
pub(crate) const SCORE_BOUND: i64 = 1 << 22;
/// Bound on a gradient at scale 2^16: 2^10 summed over a batch, 1,024 giant steps.
pub(crate) const PRODUCT_BOUND: i64 = 1 << 26;

/// What one party has in a batch: features, scores at scale 2^36 (the label holder's with its bias).
pub(crate) struct Part<'a> {
    pub(crate) features: &'a Features,
    pub(crate) scores: &'a [i64],
}

/// Keys that serve all batches.
pub(crate) struct Setup {
    scores: mife::Master,
    parties: Vec<mife::PartyKey>,
    products: sife::Master,
    public: sife::PublicKey,
}

impl Setup {
    pub(crate) fn new(parties: usize, rows: usize, rng: &mut ChaCha20Rng) -> Result<Self> {
        // The table of discrete logarithms is built once, too.
        let _: &dlog::Table = dlog::table();
        let scores = mife::Master::setup(rng, parties, parties);
        let keys = (0..parties).map(|i| scores.party_key(i).context("no such party"));
        let keys = keys.collect::<Result<_>>()?;
        let products = sife::Master::setup(rng, rows);
        let public = products.public_key();
        Ok(Self { scores, parties: keys, products, public })
    }
}

/// Half up, as shifts of whole numbers round.
const fn shifted(value: i64, bits: u32) -> i64 {
    (value + (1 << (bits - 1))) >> bits
}

fn column(features: &Features, j: usize) -> Vec<i64> {
    let rows = (0u32..).map(|row| features.row(row)).take_while(|row| !row.is_empty());
    rows.map(|row| shifted(row[j].into(), FEATURE_SHIFT)).collect()
}

/// The label holder's part of 4u at scale 2^16: z + 2 - 4y.
fn with_label(z: i64, y: i64) -> i64 {
    shifted(z, SCORE_SHIFT) + (2 - 4 * y) * (1 << 16)
}

/// 4u of every row by plain arithmetic, at scale 2^16, and gradients at scale 2^16 by party and column.
pub(crate) fn plain(
    parts: &[Part<'_>],
    holder: usize,
    labels: &[i64],
) -> (Vec<i64>, Vec<Vec<i64>>) {
    let w: Vec<i64> = labels
        .iter()
        .enumerate()
        .map(|(row, y)| {
            let of = |(i, part): (usize, &Part<'_>)| match i == holder {
                true => with_label(part.scores[row], *y),
                false => shifted(part.scores[row], SCORE_SHIFT),
            };
            parts.iter().enumerate().map(of).sum()
        })
        .collect();
    let u: Vec<i64> = w.iter().map(|w| shifted(*w, RESIDUAL_SHIFT)).collect();
    let gradients = parts
        .iter()
        .map(|part| {
            let of = |j| column(part.features, j).iter().zip(&u).map(|(x, u)| x * u).sum();
            (0..part.features.columns()).map(of).collect()
        })
        .collect();
    (w, gradients)
}

fn encode(points: &[RistrettoPoint], out: &mut Vec<u8>) {
    points.iter().for_each(|point| out.extend_from_slice(point.compress().as_bytes()));
}

fn decode(bytes: &[u8]) -> Result<Vec<RistrettoPoint>> {
    let point = |bytes: &[u8; 32]| CompressedRistretto(*bytes).decompress().context("no point");
    bytes.as_chunks::<32>().0.iter().map(point).collect()
}

/// One party's message: scores, then columns.
fn encrypt(
    setup: &Setup,
    at: usize,
    part: &Part<'_>,
    label: Option<&[i64]>,
    rng: &mut ChaCha20Rng,
) -> Result<[Vec<u8>; 2]> {
    let (mut scores, mut columns) = (Vec::new(), Vec::new());
    for (row, z) in part.scores.iter().enumerate() {
        let plain = match label {
            Some(labels) => with_label(*z, labels[row]),
            None => shifted(*z, SCORE_SHIFT),
        };
        let ciphertext = setup.parties[at].encrypt(rng, plain);
        encode(&[ciphertext.t[0], ciphertext.t[1], ciphertext.c], &mut scores);
    }
    for j in 0..part.features.columns() {
        let ciphertext = setup.public.encrypt(rng, &column(part.features, j))?;
        encode(&[ciphertext.t], &mut columns);
        encode(&ciphertext.c, &mut columns);
    }
    Ok([scores, columns])
}

fn open_scores(key: &mife::FunctionKey, messages: &[[Vec<u8>; 2]]) -> Result<Vec<i64>> {
    let parts: Vec<Vec<RistrettoPoint>> =
        messages.iter().map(|[scores, _]| decode(scores)).collect::<Result<_>>()?;
    let rows = parts.first().map_or(0, |points| points.len() / 3);
    (0..rows)
        .map(|row| {
            let of = |points: &Vec<RistrettoPoint>| mife::Ciphertext {
                t: [points[3 * row], points[3 * row + 1]],
                c: points[3 * row + 2],
            };
            let ciphertexts: Vec<mife::Ciphertext> = parts.iter().map(of).collect();
            mife::decrypt_vartime(key, &ciphertexts, SCORE_BOUND).context("a score out of bounds")
        })
        .collect()
}

fn open_products(key: &sife::FunctionKey, columns: &[u8]) -> Result<Vec<i64>> {
    let width = (key.u.len() + 1) * 32;
    columns
        .chunks_exact(width)
        .map(|bytes| {
            let points = decode(bytes)?;
            let (t, c) = points.split_first().context("no ciphertext")?;
            let ciphertext = sife::Ciphertext { t: *t, c: c.to_vec() };
            sife::decrypt_vartime(key, &ciphertext, PRODUCT_BOUND)
                .context("a gradient out of bounds")
        })
        .collect()
}

/// One batch: 4u of every row and all gradients, as the aggregator reads them.
pub(crate) fn run(
    setup: &Setup,
    parts: &[Part<'_>],
    holder: usize,
    labels: &[i64],
    rng: &mut ChaCha20Rng,
) -> Result<(Vec<i64>, Vec<Vec<i64>>, Cost)> {
    let mut cost = Cost::default();
    let (mut messages, mut times) = (Vec::new(), Vec::new());
    for (at, part) in parts.iter().enumerate() {
        // The aggregator holds the model: every party is sent its weights.
        cost.sent("aggregator_to_parties", 8 * part.features.columns());
        let own = (at == holder).then_some(labels);
        let (message, ns) = measured(|| encrypt(setup, at, part, own, rng));
        let message = message?;
        let [scores, columns] = &message;
        let (rows, width) = (part.scores.len(), part.features.columns());
        ensure!(scores.len() == sife::feature_dimension_bytes(rows), "another size");
        ensure!(columns.len() == sife::sample_dimension_bytes(rows, width), "another size");
        cost.sent("parties_to_aggregator", scores.len() + columns.len());
        times.push((if at == holder { "label_holder" } else { "passive" }, ns));
        messages.push(message);
    }
    cost.at_once(&times);

    let y = vec![1; parts.len()];
    cost.sent("aggregator_to_authority", y.len());
    let key = cost.work("authority", || setup.scores.function_key(&y))?;
    cost.sent("authority_to_aggregator", (2 * key.d.len() + 1) * 32);
    let w = cost.work("aggregator", || open_scores(&key, &messages))?;

    let u: Vec<i64> = w.iter().map(|w| shifted(*w, RESIDUAL_SHIFT)).collect();
    // A residual at this scale fits two bytes.
    cost.sent("aggregator_to_authority", 2 * u.len());
    let key = cost.work("authority", || setup.products.function_key(&u))?;
    cost.sent("authority_to_aggregator", 32);
    let gradients = cost.work("aggregator", || {
        messages.iter().map(|[_, columns]| open_products(&key, columns)).collect::<Result<_>>()
    })?;
    Ok((w, gradients, cost))
}
