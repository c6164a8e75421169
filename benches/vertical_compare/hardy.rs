//! The two-party baseline: one gradient step under Paillier.
//!
//! Source: Hardy, Henecka, Ivey-Law, Nock, Patrini, Smith, Thorne, *Private federated learning on
//! vertically partitioned data via entity resolution and additively homomorphic encryption* (arXiv
//! 1711.10677), the secure gradient: the Taylor loss, one ciphertext per row and per gradient, nothing
//! packed. With gradients masked before the coordinator opens them, as Yang et al. (2019) have it, so that
//! the coordinator, too, learns no gradient.
//!
//! The **host** has features, the **guest** features and labels, the **coordinator** the private key:
//!
//! 1. host to guest: \[z_i\], its scores;
//! 2. guest to host: \[w_i\] with w = 4u = z + z' + 2 - 4y, its own part freshly encrypted: without that
//!    the host would divide by what it sent and read the guest's part;
//! 3. both to the coordinator: for every column \[sum_i w_i x_ij + mask_j\];
//! 4. the coordinator opens these and sends them back.
//!
//! Everything that leaves the bytes alone is done to make it fast: randomness from a table with short
//! exponents, bucketed products of powers, decryption by the Chinese remainder theorem. Left out: the
//! encrypted loss, the encrypted mask of unmatched rows, signatures, envelopes and sealing. Masked gradients
//! travel in 28 bytes, not as numbers modulo n.

use anyhow::{Context, Result, ensure};
use quorate_crypto::threshold::paillier::single::{
    Cipher, MASKED_BYTES, Mask, PrivateKey, PublicKey,
};
use quorate_protocols::fedv::linear::Features;
use rand_chacha::ChaCha20Rng;

use crate::cost::{Cost, measured};

/// Exact parts of one batch: features at scale 2^16, scores at 2^36.
pub(crate) struct Batch<'a> {
    pub(crate) host: &'a Features,
    pub(crate) guest: &'a Features,
    pub(crate) host_scores: &'a [i64],
    /// Bias included.
    pub(crate) guest_scores: &'a [i64],
    /// 0 or 1.
    pub(crate) labels: &'a [i64],
}

/// Gradients of 4 times the loss at scale 2^52, the bias's at scale 2^36.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gradients {
    pub(crate) host: Vec<i128>,
    pub(crate) guest: Vec<i128>,
    pub(crate) bias: i128,
}

impl Batch<'_> {
    /// z' + 2 - 4y at scale 2^36: the guest's part of 4u.
    fn guest_parts(&self) -> Vec<i128> {
        let part = |(z, y): (&i64, &i64)| i128::from(*z) + i128::from(2 - 4 * y) * (1 << 36);
        self.guest_scores.iter().zip(self.labels).map(part).collect()
    }

    /// The same by plain arithmetic.
    pub(crate) fn plain(&self) -> Gradients {
        let w: Vec<i128> = self
            .guest_parts()
            .iter()
            .zip(self.host_scores)
            .map(|(own, host)| own + i128::from(*host))
            .collect();
        let products = |features: &Features| -> Vec<i128> {
            let of = |j| column(features, j).iter().zip(&w).map(|(x, w)| i128::from(*x) * w).sum();
            (0..features.columns()).map(of).collect()
        };
        Gradients { host: products(self.host), guest: products(self.guest), bias: w.iter().sum() }
    }
}

fn column(features: &Features, j: usize) -> Vec<i64> {
    (0u32..)
        .map(|row| features.row(row))
        .take_while(|row| !row.is_empty())
        .map(|row| row[j].into())
        .collect()
}

/// What one party's share of step 3 is: masked, encrypted gradients and the masks.
fn masked_gradients(
    key: &PublicKey,
    w: &[Cipher],
    features: &Features,
    bias: bool,
    rng: &mut ChaCha20Rng,
) -> Result<(Vec<u8>, Vec<Mask>)> {
    let mut columns: Vec<Vec<i64>> = (0..features.columns()).map(|j| column(features, j)).collect();
    if bias {
        columns.push(vec![1; w.len()]);
    }
    let masks: Vec<Mask> = columns.iter().map(|_| Mask::random(rng)).collect();
    let hidden = key.encrypt_masks(&masks, rng);
    let gradients = columns
        .iter()
        .zip(&hidden)
        .map(|(column, mask)| Ok(key.add(&key.inner_product_vartime(w, column)?, mask)))
        .collect::<Result<Vec<_>>>()?;
    Ok((key.encode(&gradients), masks))
}

fn take_off(masks: &[Mask], opened: &[u8]) -> Result<Vec<i128>> {
    let opened = opened.as_chunks::<MASKED_BYTES>().0;
    ensure!(opened.len() == masks.len(), "another number of gradients");
    let gradient = |(mask, opened): (&Mask, _)| mask.take_off(opened).context("a wide gradient");
    masks.iter().zip(opened).map(gradient).collect()
}

/// One batch.
pub(crate) fn run(
    (public, private): (&PublicKey, &PrivateKey),
    batch: &Batch<'_>,
    rng: &mut ChaCha20Rng,
) -> Result<(Gradients, Cost)> {
    let mut cost = Cost::default();
    let scores = cost.work("host", || {
        let scores: Vec<i128> = batch.host_scores.iter().map(|z| i128::from(*z)).collect();
        public.encode(&public.encrypt(&scores, rng))
    });
    cost.sent("host_to_guest", scores.len());

    let (w, sums) = cost.work("guest", || -> Result<_> {
        let own = public.encrypt(&batch.guest_parts(), rng);
        let scores = public.decode(&scores)?;
        let w: Vec<Cipher> = scores.iter().zip(&own).map(|(a, b)| public.add(a, b)).collect();
        Ok((public.encode(&w), w))
    })?;
    cost.sent("guest_to_host", w.len());

    let (guest, guest_ns) = measured(|| masked_gradients(public, &sums, batch.guest, true, rng));
    let (host, host_ns) =
        measured(|| masked_gradients(public, &public.decode(&w)?, batch.host, false, rng));
    cost.at_once(&[("guest", guest_ns), ("host", host_ns)]);
    let ((guest, guest_masks), (host, host_masks)) = (guest?, host?);
    cost.sent("guest_to_coordinator", guest.len());
    cost.sent("host_to_coordinator", host.len());

    let [guest, host] = cost.work("coordinator", || -> Result<_> {
        let open = |bytes: &[u8]| -> Result<Vec<u8>> {
            let mut out = Vec::new();
            for cipher in public.decode(bytes)? {
                out.extend(private.decrypt_masked(&cipher).context("no masked gradient")?);
            }
            Ok(out)
        };
        Ok([open(&guest)?, open(&host)?])
    })?;
    cost.sent("coordinator_to_guest", guest.len());
    cost.sent("coordinator_to_host", host.len());

    let (guest, guest_ns) = measured(|| take_off(&guest_masks, &guest));
    let (host, host_ns) = measured(|| take_off(&host_masks, &host));
    cost.at_once(&[("guest", guest_ns), ("host", host_ns)]);
    let mut guest = guest?;
    let bias = guest.pop().context("no bias")?;
    Ok((Gradients { host: host?, guest, bias }, cost))
}

/// Bytes of a batch, by the messages above.
pub(crate) const fn bytes(cipher: usize, rows: usize, host: usize, guest: usize) -> usize {
    2 * rows * cipher + (host + guest + 1) * (cipher + MASKED_BYTES)
}
