//! The noise of a job: how much, which share of it a party draws, and the plaintext that carries it.
//!
//! A sum over at least r_min members, without the shares of c colluders and of one curious member,
//! still holds h = r_min - c - 1 shares: each is drawn with 1/h of the variance (Gaussian), or is
//! 1/h of a Laplace variable (Polya). The noise is sized by the sensitivity of its own round, so
//! that every round costs the same rho.

use quorate_crypto::dp::encode::scaled_sensitivity;
use quorate_crypto::dp::{DiscreteGaussian, DpError, PolyaShare, Ratio};
use quorate_crypto::merkle::hash_parts;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{Mechanism, NoiseSpec, Unit};
use crate::job::Manifest;
use crate::payload::{Contribution, PayloadError, PayloadKind, PayloadSpec, plaintext_bytes};
use crate::wire::Name;
use crate::workload::Workload;

/// Most fractional bits of variances and scales, which are rounded up.
const RATIO_BITS: i32 = 20;

/// Bits of variances and scales, so that the samplers' products fit.
const SCALE_BITS: i32 = 50;

/// Least standard deviation of a Gaussian share.
const LEAST_SHARE: f64 = 3.0;

/// Standard deviations of a Gaussian share that a word has room for: exceeded with probability
/// below 2^-60, so wrapping stays below 2^-44 for 2^17 coordinates.
const GAUSSIAN_REACH: f64 = 9.0;

/// Scales of a Laplace share that a word has room for: exceeded with probability below 2^-57.
const LAPLACE_REACH: f64 = 40.0;

/// What adding or removing one unit moves the exact sum of a round by, at most: L2 norm for
/// Gaussian noise, L1 norm for Laplace noise.
///
/// Counts: a record is in one cell per column that its node may still split. Rotated vectors: the
/// clip, scaled, and what rounding adds. Plain sums: the declared clip.
#[must_use]
pub fn sensitivity(workload: &Workload, noise: &NoiseSpec, round: u32) -> f64 {
    let cells = |count: usize| match noise.mechanism {
        Mechanism::Gaussian => (count as f64).sqrt(),
        Mechanism::Laplace => count as f64,
    };
    match workload {
        Workload::Sum { .. } => noise.clip,
        Workload::Train(spec) => spec.steps.map_or(f64::INFINITY, |steps| {
            scaled_sensitivity(spec.params().saturating_add(1), steps.shift(), steps.clip)
        }),
        Workload::Tree(spec) => {
            cells(spec.table.schema.columns.len().saturating_sub(round as usize))
        }
        Workload::Bayes(spec) => cells(spec.table.schema.columns.len()),
        Workload::Vertical(_) | Workload::Payments(_) => f64::INFINITY,
    }
}

/// Standard deviation (Gaussian) or scale (Laplace) of the noise that a round's privacy rests on,
/// that of `parts` = h shares together: the multiplier times the sensitivity.
///
/// A Gaussian share has a deviation of at least 3, so that the sum of shares is as good as one
/// discrete Gaussian: tau of the distributed discrete Gaussian is then below 10^-36 per share.
#[must_use]
pub fn round_scale(workload: &Workload, noise: &NoiseSpec, round: u32, parts: u32) -> f64 {
    scale_of(noise, sensitivity(workload, noise, round), parts)
}

/// As [`round_scale`], of a sum of this sensitivity.
#[must_use]
pub fn scale_of(noise: &NoiseSpec, sensitivity: f64, parts: u32) -> f64 {
    let scale = noise.multiplier * sensitivity;
    match noise.mechanism {
        Mechanism::Gaussian => scale.max(LEAST_SHARE * f64::from(parts).sqrt()),
        Mechanism::Laplace => scale,
    }
}

/// Room for one party's noise in a word of round `round`, at least 1; 0 in jobs without noise.
#[must_use]
pub fn word_room(manifest: &Manifest, round: u32) -> u64 {
    let Some(noise) = manifest.privacy.noise() else { return 0 };
    let parts = manifest.noise_divisor().max(1);
    room_of(noise.mechanism, round_scale(&manifest.workload, noise, round, parts), parts)
}

/// As [`word_room`], for a share of one of `parts` of noise of this scale.
#[must_use]
pub fn room_of(mechanism: Mechanism, scale: f64, parts: u32) -> u64 {
    let h = f64::from(parts);
    let room = match mechanism {
        Mechanism::Gaussian => GAUSSIAN_REACH * scale / h.sqrt(),
        Mechanism::Laplace => LAPLACE_REACH * scale,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and a float cast saturates: no ring then fits"
    )]
    (room.ceil().max(1.0) as u64)
}

/// Why a workload cannot carry this noise, if it cannot.
#[must_use]
pub fn fault(workload: &Workload, noise: &NoiseSpec) -> Option<&'static str> {
    match workload {
        Workload::Sum { .. } => None,
        Workload::Train(spec) => match &spec.steps {
            None => Some("averaged weights carry no noise: let the job take clipped steps"),
            Some(steps) if steps.unit != noise.unit => {
                Some("the steps clip another unit than the one that the noise hides")
            }
            Some(steps) if steps.clip != noise.clip => {
                Some("clip must be the same for the steps and the noise")
            }
            Some(_) if noise.mechanism == Mechanism::Laplace => {
                Some("steps are clipped by their L2 norm: their noise is Gaussian")
            }
            Some(_) => None,
        },
        Workload::Tree(_) | Workload::Bayes(_) => {
            (noise.unit == Unit::Party).then_some("counts hide records, not parties")
        }
        Workload::Payments(_) => None,
        Workload::Vertical(_) => Some("a vertical job hides labels, by its own table: labels"),
    }
}

/// Why a contribution was not given its noise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// The round or its payload is none of the job's.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The job has no such round.
    #[error("the job has no round {0}")]
    Round(u32),
    /// A party's vector is larger than the clip by which its noise is sized.
    #[error("the vector's norm exceeds the clip, by which the job's noise is sized")]
    Clip,
    /// No sampler has this scale.
    #[error("no noise of this scale can be drawn")]
    Scale,
}

/// The distribution of a share.
enum Sampler {
    Gaussian(DiscreteGaussian),
    Laplace(PolyaShare),
}

impl Sampler {
    fn new(mechanism: Mechanism, scale: f64, parts: u32) -> Result<Self, NoiseError> {
        match mechanism {
            Mechanism::Gaussian => ratio(scale * scale / f64::from(parts))
                .and_then(DiscreteGaussian::new)
                .map(Self::Gaussian),
            Mechanism::Laplace => {
                ratio(scale).and_then(|scale| PolyaShare::new(scale, parts)).map(Self::Laplace)
            }
        }
        .map_err(|_| NoiseError::Scale)
    }
}

/// A fraction that is at least `x`, by as little as the samplers allow.
fn ratio(x: f64) -> Result<Ratio, DpError> {
    // The exponent field of a positive number: floor(log2 x), or less than -1000.
    let log2 = i32::try_from((x.to_bits() >> 52) & 0x7ff).unwrap_or(0) - 1023;
    let bits = (SCALE_BITS - 1 - log2).clamp(0, RATIO_BITS);
    Ratio::above(x, u32::try_from(bits).unwrap_or(0))
}

/// Whether the noise of every round can be drawn.
#[must_use]
pub fn can_be_drawn(manifest: &Manifest) -> bool {
    let Some(noise) = manifest.privacy.noise() else { return true };
    let parts = manifest.noise_divisor();
    manifest.workload.distinct_rounds().into_iter().all(|round| {
        let scale = round_scale(&manifest.workload, noise, round, parts);
        Sampler::new(noise.mechanism, scale, parts).is_ok()
    })
}

/// Adds noise of `scale` to every value: with 1 / `parts` of the variance, or 1 / `parts` of a
/// Laplace variable. Each draw is clamped to `room`.
///
/// # Errors
/// [`NoiseError::Scale`] when no sampler has this scale or a value overflows.
pub fn add_share<R: CryptoRng>(
    mechanism: Mechanism,
    scale: f64,
    parts: u32,
    room: u64,
    rng: &mut R,
    body: &mut [i64],
) -> Result<(), NoiseError> {
    let mut share = Zeroizing::new(vec![0i64; body.len()]);
    match Sampler::new(mechanism, scale, parts)? {
        Sampler::Gaussian(sampler) => sampler.add_to(rng, &mut share),
        Sampler::Laplace(sampler) => sampler.add_to(rng, &mut share),
    }
    let room = i64::try_from(room).unwrap_or(i64::MAX);
    for (value, share) in body.iter_mut().zip(share.iter()) {
        *value = value.checked_add((*share).clamp(-room, room)).ok_or(NoiseError::Scale)?;
    }
    Ok(())
}

/// The plaintext of a contribution: its bounds are checked, then this party's share of the noise, if
/// the job has any, is drawn once, then all is laid out in ring words.
///
/// # Errors
/// [`NoiseError`] when the contribution is none of this round or exceeds the clip.
///
/// # Security
/// Call it once per round and keep the bytes: of two draws over one contribution the mean has less
/// noise than either.
pub fn noised<R: CryptoRng>(
    manifest: &Manifest,
    round: u32,
    mut contribution: Contribution,
    rng: &mut R,
) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
    let spec = manifest.payload(round).map_err(|_| NoiseError::Round(round))?;
    let (ring, code, max_rows) = (manifest.ring, &manifest.code, manifest.workload.max_rows());
    if let Some(noise) = manifest.privacy.noise() {
        let exact = PayloadSpec::exact(spec.kind);
        let behind = match exact.kind {
            PayloadKind::Rotated { .. } => max_rows,
            _ => contribution.rows,
        };
        exact.check_body(code, behind, 0, &contribution.body)?;
        let most = sensitivity(&manifest.workload, noise, round);
        if noise.unit == Unit::Party && !within_norm(noise.mechanism, most, &contribution.body) {
            return Err(NoiseError::Clip);
        }
        let parts = manifest.noise_divisor();
        let scale = round_scale(&manifest.workload, noise, round, parts);
        add_share(noise.mechanism, scale, parts, spec.noise, rng, &mut contribution.body)?;
    }
    let (rows, body) = (contribution.rows, &contribution.body);
    Ok(Zeroizing::new(plaintext_bytes(&spec, ring, code, max_rows, rows, body)?))
}

/// Whether a vector's L2 norm (Gaussian) or L1 norm (Laplace) is at most `most`.
fn within_norm(mechanism: Mechanism, most: f64, body: &[i64]) -> bool {
    let size = |value: &i64| u128::from(value.unsigned_abs());
    let (norm, most) = match mechanism {
        Mechanism::Gaussian => {
            (body.iter().fold(0, |sum: u128, v| sum.saturating_add(size(v) * size(v))), most * most)
        }
        Mechanism::Laplace => {
            (body.iter().fold(0, |sum: u128, v| sum.saturating_add(size(v))), most)
        }
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and a float cast saturates"
    )]
    (norm <= most as u128)
}

/// Seed of a party's noise where a run must be repeatable: simulations, and real runs that check
/// them. Everywhere else a party draws from the system's randomness.
///
/// H(seed, round, party); the stream is ChaCha20's, and one round draws its words in order.
#[must_use]
pub fn replayable_seed(seed: &[u8], round: u32, party: &Name) -> [u8; 32] {
    let parts: [&[u8]; 3] = [seed, &round.to_le_bytes(), party.as_str().as_bytes()];
    hash_parts("quorate/simulated-noise/1", &parts).0
}

#[cfg(test)]
mod tests {
    use quorate_crypto::dp::account::rho_of_sigma;
    use quorate_crypto::fixed::from_ring;
    use quorate_crypto::keys::{ExchangeKey, VerifyKey};
    use quorate_crypto::schemes;
    use quorate_crypto::sum::{PadSuite, Ring};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::job::{AuthorityKey, Deadlines, MANIFEST_VERSION, Privacy};
    use crate::workload::{
        BayesSpec, Column, ColumnKind, DEFAULT_CODE, ModelSpec, Schema, StepSpec, TrainSpec,
        TreeSpec,
    };

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn schema() -> Schema {
        let column = |i: usize| Column {
            name: format!("c{i}"),
            kind: ColumnKind::Category { levels: vec!["x".into(), "y".into()] },
        };
        let classes = vec!["0".into(), "1".into(), "2".into()];
        Schema { columns: (0..8).map(column).collect(), target: "t".into(), classes }
    }

    fn noise(mechanism: Mechanism, unit: Unit) -> NoiseSpec {
        NoiseSpec {
            unit,
            mechanism,
            multiplier: 20.0,
            clip: 1.0,
            epsilon: 8.0,
            delta: 1e-6,
            data_set: name("set"),
        }
    }

    fn gaussian() -> NoiseSpec {
        noise(Mechanism::Gaussian, Unit::Record)
    }

    fn job(workload: Workload, noise: NoiseSpec) -> Manifest {
        let authority = AuthorityKey {
            name: name("a"),
            epoch: 0,
            verify: VerifyKey([1; 32]),
            exchange: ExchangeKey([1; 32]),
        };
        let pad = schemes::all().iter().find(|scheme| scheme.info().name == "pad").unwrap();
        Manifest {
            version: MANIFEST_VERSION,
            tenant: name("t"),
            title: String::new(),
            salt: [3; 16],
            aggregator: VerifyKey([2; 32]),
            authorities: vec![authority],
            protocol: crate::hybrid_alpha::PROTOCOL_ID,
            scheme: pad.info().id,
            suite: PadSuite::Aes256Ctr,
            ring: Ring::Z64,
            code: DEFAULT_CODE,
            max_parties: 20,
            quorum: 10,
            k_min: 2,
            colluders: 5,
            threshold: None,
            privacy: Privacy::Noise(noise),
            verified_sum: false,
            deadlines: Deadlines { collect_ms: 1, grace_ms: 1, key_ms: 1, max_attempts: 1 },
            workload,
        }
    }

    fn tree() -> Workload {
        Workload::Tree(TreeSpec::default_for(schema()))
    }

    fn steps(unit: Unit) -> Workload {
        let mut spec = TrainSpec::steps_for(schema(), ModelSpec::Svm { l2: 0.0 });
        spec.steps = Some(StepSpec { unit, clip: 1.0, learning_rate: 1.0, momentum: 0.0 });
        Workload::Train(spec)
    }

    #[test]
    fn the_noise_follows_the_sensitivity_of_its_round() {
        let laplace = noise(Mechanism::Laplace, Unit::Record);
        for round in 0..3 {
            let left = f64::from(8 - round);
            assert_eq!(round_scale(&tree(), &gaussian(), round, 4), 20.0 * left.sqrt());
            assert_eq!(round_scale(&tree(), &laplace, round, 4), 20.0 * left);
        }
        let bayes = Workload::Bayes(BayesSpec::default_for(schema()));
        assert_eq!(sensitivity(&bayes, &gaussian(), 0), 8f64.sqrt());
        // 8 x 3 features and a bias for each of 3 classes, and the count: 76 of 128 values.
        assert_eq!(sensitivity(&steps(Unit::Record), &gaussian(), 9), 129.0 * 128f64.sqrt());
        let sum = Workload::Sum { dim: 3, rounds: 2, max_abs: 9 };
        assert_eq!(sensitivity(&sum, &NoiseSpec { clip: 7.5, ..gaussian() }, 1), 7.5);
        // A share never has a deviation under 3, so the ledger's rho holds for the sum of shares.
        let little = NoiseSpec { multiplier: 1e-3, ..gaussian() };
        assert_eq!(round_scale(&tree(), &little, 0, 4), 6.0);
        let rho = quorate_crypto::dp::encode::ddg_rho(1.0, 2f64.powi(27), 3.0, 4);
        assert!((rho - rho_of_sigma(6.0)).abs() < 1e-25);
    }

    #[test]
    fn jobs_whose_noise_hides_nothing_are_refused() {
        let averaged = TrainSpec::default_for(schema(), ModelSpec::LOGISTIC);
        let party = noise(Mechanism::Gaussian, Unit::Party);
        let cases = [
            (tree(), gaussian(), None),
            (tree(), noise(Mechanism::Laplace, Unit::Record), None),
            (tree(), party.clone(), Some("records")),
            (Workload::Bayes(BayesSpec::default_for(schema())), party.clone(), Some("records")),
            (Workload::Train(averaged), gaussian(), Some("averaged")),
            (steps(Unit::Record), gaussian(), None),
            (steps(Unit::Party), gaussian(), Some("unit")),
            (steps(Unit::Record), party.clone(), Some("unit")),
            (steps(Unit::Party), party.clone(), None),
            (steps(Unit::Record), NoiseSpec { clip: 2.0, ..gaussian() }, Some("clip")),
            (steps(Unit::Record), noise(Mechanism::Laplace, Unit::Record), Some("L2")),
            (Workload::Sum { dim: 3, rounds: 2, max_abs: 9 }, party, None),
        ];
        for (workload, noise, fault) in cases {
            let checked = job(workload, noise).check().map_err(|refusal| refusal.detail);
            match fault {
                None => assert_eq!(checked, Ok(())),
                Some(word) => assert!(checked.clone().unwrap_err().contains(word), "{checked:?}"),
            }
        }
    }

    #[test]
    fn values_with_noise_stay_small_and_a_ring_too_small_is_refused() {
        let mut manifest = job(tree(), gaussian());
        // 10,000 rows and 9 x 20 sqrt(8) / sqrt(4) of noise: under 2^14.
        assert_eq!(word_room(&manifest, 0), 255);
        assert_eq!(manifest.value_bits(0).unwrap(), 15);
        assert_eq!(manifest.payload(2).unwrap().body_len(), 9 * 8 * 3 * 3);
        manifest.ring = Ring::Z32;
        assert_eq!(manifest.check(), Ok(()));
        let wide = job(tree(), NoiseSpec { multiplier: 4e7, ..gaussian() });
        assert_eq!(wide.check(), Ok(()));
        let refusal = Manifest { ring: Ring::Z32, ..wide }.check().unwrap_err();
        assert!(refusal.detail.contains("bits"), "{}", refusal.detail);
        let refusal = job(tree(), NoiseSpec { multiplier: 1e9, ..gaussian() }).check().unwrap_err();
        assert!(refusal.detail.contains("drawn"), "{}", refusal.detail);
    }

    /// h = 4: with 10 members the variance is 10/4 of the whole noise's, 400 x 8.
    #[test]
    fn shares_of_a_round_add_up() {
        let mut manifest = job(tree(), gaussian());
        assert_eq!(manifest.noise_divisor(), 4);
        manifest.privacy = Privacy::Noise(gaussian());
        let cells = manifest.payload(0).unwrap().body_len();
        let mut squares = 0.0;
        for repeat in 0..20u8 {
            let mut total = vec![0i64; usize::try_from(cells).unwrap()];
            for party in 0..10 {
                let seed = replayable_seed(&[repeat], 0, &name(&format!("p{party}")));
                let mut rng = ChaCha20Rng::from_seed(seed);
                let body = vec![100; total.len()];
                let own = Contribution { rows: 5000, body };
                let bytes = noised(&manifest, 0, own, &mut rng).unwrap();
                let mut words = Vec::new();
                from_ring(&bytes, Ring::Z64, &mut words).unwrap();
                assert_eq!(words[..5], [0; 5]);
                total.iter_mut().zip(&words[5..]).for_each(|(sum, word)| *sum += word - 100);
            }
            squares += total.iter().map(|x| (x * x) as f64).sum::<f64>();
        }
        let variance = squares / (20 * cells) as f64;
        // 1,440 samples: 20 % is over five standard deviations.
        assert!((variance / 8000.0 - 1.0).abs() < 0.2, "{variance}");
    }

    #[test]
    fn a_party_may_not_exceed_its_clip() {
        let sum = Workload::Sum { dim: 2, rounds: 1, max_abs: 100 };
        for (mechanism, fits, exceeds) in [
            (Mechanism::Gaussian, [[30, -40], [0, 50]], [[31, -40], [0, 51]]),
            (Mechanism::Laplace, [[20, -30], [0, 50]], [[21, -30], [0, 51]]),
        ] {
            let spec = NoiseSpec { clip: 50.0, ..noise(mechanism, Unit::Party) };
            let manifest = job(sum.clone(), spec);
            assert_eq!(manifest.check(), Ok(()));
            let mut rng = ChaCha20Rng::from_seed([0; 32]);
            let mut send = |rows, body: [i64; 2]| {
                noised(&manifest, 0, Contribution { rows, body: body.to_vec() }, &mut rng)
            };
            assert!(fits.iter().all(|body| send(1, *body).is_ok()));
            assert!(exceeds.iter().all(|body| send(1, *body) == Err(NoiseError::Clip)));
            assert!(matches!(send(1, [101, 0]), Err(NoiseError::Payload(_))));
            assert!(matches!(send(2, [1, 0]), Err(NoiseError::Payload(_))));
        }
        let manifest = job(sum, NoiseSpec { clip: 50.0, ..gaussian() });
        let mut rng = ChaCha20Rng::from_seed([0; 32]);
        let late = noised(&manifest, 1, Contribution { rows: 1, body: vec![0; 2] }, &mut rng);
        assert_eq!(late, Err(NoiseError::Round(1)));
    }
}
