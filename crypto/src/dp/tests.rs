//! The samplers against exact distributions and opendp, the accountant against reference values and
//! opendp, the encoding against plain arithmetic.

use opendp::combinators::ConcentratedMeasure;
use opendp::measures::ZeroConcentratedDivergence;
use opendp::traits::samplers::{sample_discrete_gaussian, sample_discrete_laplace};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{CryptoRng, SeedableRng};

use super::account::{
    delta_gaussian, delta_zcdp, epsilon_gaussian, epsilon_zcdp, rho_of_sigma, sigma_for_gaussian,
    sigma_for_zcdp,
};
use super::encode::{SumOfCodes, ddg_rho, scaled_sensitivity, tau};
use super::statistics::{goodness_of_fit, two_samples, variance};
use super::{DiscreteGaussian, DiscreteLaplace, DpError, PolyaShare, Ratio, Rotation};

const DRAWS: usize = 40_000;

fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

fn ratio(num: u64, den: u64) -> Ratio {
    Ratio { num, den }
}

fn real(ratio: Ratio) -> f64 {
    ratio.num as f64 / ratio.den as f64
}

/// Draws by both ways: half in one go, half one by one.
macro_rules! draws {
    ($noise:expr, $seed:expr) => {{
        let (noise, mut rng) = ($noise, rng($seed));
        let mut samples = vec![0i64; DRAWS / 2];
        noise.add_to(&mut rng, &mut samples);
        samples.extend((0..DRAWS / 2).map(|_| noise.sample(&mut rng)));
        samples
    }};
}

fn gaussian_weight(variance: f64) -> impl Fn(i64) -> f64 {
    move |x| libm::exp(-((x * x) as f64) / (2.0 * variance))
}

fn laplace_weight(scale: f64) -> impl Fn(i64) -> f64 {
    move |x| libm::exp(-(x.abs() as f64) / scale)
}

fn reach(sigma: f64) -> i64 {
    (12.0 * sigma) as i64 + 40
}

#[test]
fn gaussian_draws_follow_the_exact_distribution() {
    let variances = [
        ratio(1, 5),
        ratio(1, 2),
        ratio(1, 1),
        ratio(2, 1),
        ratio(7, 3),
        ratio(16, 1),
        ratio(33, 2),
        ratio(100, 1),
        ratio(1_000_003, 1009),
        ratio(10_000 * 1024 + 1, 1024),
    ];
    for (seed, variance) in variances.into_iter().enumerate() {
        let samples = draws!(DiscreteGaussian::new(variance).unwrap(), seed as u8);
        let v = real(variance);
        let p = goodness_of_fit(&samples, reach(v.sqrt()), gaussian_weight(v));
        assert!(p > 0.001, "variance {variance:?}: p {p}");
    }
}

#[test]
fn laplace_draws_follow_the_exact_distribution() {
    let scales = [ratio(1, 3), ratio(1, 1), ratio(5, 2), ratio(7, 1), ratio(1000, 9)];
    for (seed, scale) in scales.into_iter().enumerate() {
        let samples = draws!(DiscreteLaplace::new(scale).unwrap(), seed as u8);
        let p = goodness_of_fit(&samples, reach(2.0 * real(scale)), laplace_weight(real(scale)));
        assert!(p > 0.001, "scale {scale:?}: p {p}");
    }
}

#[test]
fn polya_shares_add_up_to_discrete_laplace() {
    for (seed, shares) in [1u32, 2, 5, 9].into_iter().enumerate() {
        for scale in [ratio(2, 3), ratio(9, 2)] {
            let share = PolyaShare::new(scale, shares).unwrap();
            let mut rng = rng(seed as u8);
            let mut sums = vec![0i64; DRAWS];
            for _ in 0..shares {
                share.add_to(&mut rng, &mut sums);
            }
            let p = goodness_of_fit(&sums, reach(2.0 * real(scale)), laplace_weight(real(scale)));
            assert!(p > 0.001, "{shares} shares of scale {scale:?}: p {p}");
        }
    }
}

#[test]
fn the_tests_of_fit_notice_a_wrong_width() {
    let samples = draws!(DiscreteGaussian::new(ratio(16, 1)).unwrap(), 1);
    assert!(goodness_of_fit(&samples, 60, gaussian_weight(18.0)) < 1e-6);
    let other = draws!(DiscreteGaussian::new(ratio(18, 1)).unwrap(), 2);
    assert!(two_samples(&samples, &other) < 1e-6);
    // Four of five shares are not the noise.
    let share = PolyaShare::new(ratio(9, 2), 5).unwrap();
    let (mut rng, mut sums) = (rng(3), vec![0i64; DRAWS]);
    (0..4).for_each(|_| share.add_to(&mut rng, &mut sums));
    assert!(goodness_of_fit(&sums, 150, laplace_weight(4.5)) < 1e-6);
}

/// opendp takes its randomness from the system, so the bound leaves no room for chance failures.
#[test]
fn draws_match_those_of_opendp() {
    for sigma in [0.5, 3.25, 20.0] {
        let theirs: Vec<i64> = (0..DRAWS / 4)
            .map(|_| sample_discrete_gaussian(sigma.try_into().unwrap()).unwrap())
            .map(|x| i64::try_from(x).unwrap())
            .collect();
        let variance = Ratio::above(sigma * sigma, 10).unwrap();
        let mut ours = vec![0; theirs.len()];
        DiscreteGaussian::new(variance).unwrap().add_to(&mut rng(4), &mut ours);
        let p = two_samples(&ours, &theirs);
        assert!(p > 1e-9, "sigma {sigma}: p {p}");
    }
    let theirs: Vec<i64> = (0..DRAWS / 4)
        .map(|_| sample_discrete_laplace(2.5f64.try_into().unwrap()).unwrap())
        .map(|x| i64::try_from(x).unwrap())
        .collect();
    let mut ours = vec![0; theirs.len()];
    DiscreteLaplace::new(ratio(5, 2)).unwrap().add_to(&mut rng(5), &mut ours);
    assert!(two_samples(&ours, &theirs) > 1e-9);
}

#[test]
fn extreme_parameters_draw_what_they_must() {
    let narrow = DiscreteGaussian::new(ratio(1, (1 << 56) - 1)).unwrap();
    assert!(draws!(narrow, 6).iter().all(|x| *x == 0));
    let wide = ratio((1 << 56) - 1, 1);
    let samples = draws!(DiscreteGaussian::new(wide).unwrap(), 7);
    let relative = variance(&samples) / real(wide);
    assert!((relative - 1.0).abs() < 0.04, "{relative}");
    let fine = ratio((1 << 56) - 1, (1 << 55) + 1);
    let samples = draws!(DiscreteGaussian::new(fine).unwrap(), 8);
    assert!(goodness_of_fit(&samples, 60, gaussian_weight(real(fine))) > 0.001);
    let samples = draws!(DiscreteLaplace::new(wide).unwrap(), 9);
    // The variance of a wide discrete Laplace distribution is 2 scale^2.
    let relative = variance(&samples) / (2.0 * real(wide) * real(wide));
    assert!((relative - 1.0).abs() < 0.05, "{relative}");
}

/// n = 10 parties, decryption needs t = 6 honest ones, sensitivity 1, sigma 4: h = t - 1 = 5.
#[test]
fn colluders_who_take_out_their_noise_leave_enough() {
    const SHARES: usize = 10;
    const ROUNDS: usize = 20_000;
    let share = DiscreteGaussian::new(ratio(16, 5)).unwrap();
    let noises: Vec<Vec<i64>> = (0..SHARES)
        .map(|party| {
            let mut noise = vec![0i64; ROUNDS];
            share.add_to(&mut rng(40 + party as u8), &mut noise);
            noise
        })
        .collect();
    for (colluders, expected) in [(0, 32.0), (4, 19.2), (5, 16.0)] {
        let left: Vec<i64> = (0..ROUNDS)
            .map(|round| noises.iter().skip(colluders).map(|noise| noise[round]).sum())
            .collect();
        let relative = variance(&left) / expected;
        assert!((relative - 1.0).abs() < 0.04, "{colluders} colluders: {relative}");
    }
}

#[test]
fn a_seed_fixes_the_draws() {
    let noise = DiscreteGaussian::new(ratio(1_000_001, 10)).unwrap();
    let draw = |seed: u8| {
        let mut values = vec![0i64; 700];
        let mut rng = rng(seed);
        let any: &mut dyn CryptoRng = &mut rng;
        noise.add_to(any, &mut values);
        values.push(noise.sample(any));
        values
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    // The same on every machine.
    let mut golden = vec![0i64; 6];
    noise.add_to(&mut rng(1), &mut golden);
    assert_eq!(golden, GOLDEN_GAUSSIAN);
    let mut golden = vec![0i64; 6];
    DiscreteLaplace::new(ratio(301, 3)).unwrap().add_to(&mut rng(1), &mut golden);
    assert_eq!(golden, GOLDEN_LAPLACE);
    let mut golden = vec![0i64; 6];
    PolyaShare::new(ratio(301, 3), 3).unwrap().add_to(&mut rng(1), &mut golden);
    assert_eq!(golden, GOLDEN_POLYA);
}

const GOLDEN_GAUSSIAN: [i64; 6] = [406, -434, -732, -210, -471, -171];
const GOLDEN_LAPLACE: [i64; 6] = [-212, -263, -26, 88, -72, 21];
const GOLDEN_POLYA: [i64; 6] = [24, -99, 119, 128, 12, -7];

#[test]
fn adding_noise_wraps_as_a_ring_does() {
    let noise = DiscreteGaussian::new(ratio(10_000, 1)).unwrap();
    let (mut plain, mut edge) = (vec![0i64; 100], vec![i64::MAX; 100]);
    noise.add_to(&mut rng(2), &mut plain);
    noise.add_to(&mut rng(2), &mut edge);
    assert!(plain.iter().any(|x| *x > 0));
    assert!(plain.iter().zip(edge).all(|(x, y)| i64::MAX.wrapping_add(*x) == y));
}

#[test]
fn bad_parameters_are_refused() {
    for bad in [ratio(0, 1), ratio(1, 0), ratio(0, 0)] {
        assert_eq!(DiscreteGaussian::new(bad), Err(DpError::NotPositive));
        assert_eq!(DiscreteLaplace::new(bad), Err(DpError::NotPositive));
        assert_eq!(PolyaShare::new(bad, 1), Err(DpError::NotPositive));
    }
    for bad in [ratio(1 << 56, 1), ratio(1, 1 << 56), ratio(u64::MAX, 2)] {
        assert_eq!(DiscreteGaussian::new(bad), Err(DpError::TooPrecise(56)));
        assert_eq!(DiscreteLaplace::new(bad), Err(DpError::TooPrecise(56)));
    }
    // Lowest terms count.
    assert!(DiscreteGaussian::new(ratio(1 << 63, 1 << 62)).is_ok());
    assert_eq!(PolyaShare::new(ratio(1, 1), 0), Err(DpError::NoShares));
    assert!(PolyaShare::new(ratio(1 << 20, 1), 3).is_ok());
    assert_eq!(PolyaShare::new(ratio((1 << 20) + 1, 1), 3), Err(DpError::TooWide(20)));
}

#[test]
fn ratios_round_up() {
    assert_eq!(Ratio::above(1.5, 1), Ok(ratio(3, 2)));
    assert_eq!(Ratio::above(1.5, 0), Ok(ratio(2, 1)));
    assert_eq!(Ratio::above(0.1, 8), Ok(ratio(26, 256)));
    assert_eq!(Ratio::above(f64::MIN_POSITIVE, 63), Ok(ratio(1, 1 << 63)));
    assert_eq!(Ratio::above(0.0, 3), Ok(ratio(0, 8)));
    assert_eq!(Ratio::above(18_446_744_073_709_549_568.0, 0), Ok(ratio(u64::MAX - 2047, 1)));
    let bad = [(f64::NAN, 1), (f64::INFINITY, 1), (-1.0, 1), (2f64.powi(64), 0), (1.0, 64)];
    for (x, bits) in bad {
        assert_eq!(Ratio::above(x, bits), Err(DpError::OutOfRange), "{x} {bits}");
    }
}

/// rho, delta, epsilon by zCDP, epsilon of the exact Gaussian of mu^2 = 2 rho: the formulas with 60
/// digits. Six of the rows are also published by dp-accounting 0.6.0.
const EPSILONS: [(f64, f64, f64, f64); 14] = [
    (1e-12, 1e-300, 5.187_307_660_813_39e-5, 5.173_726_830_800_5e-5),
    (1e-12, 1e-10, 5.363_325_106_260_11e-6, 4.881_867_608_198_74e-6),
    (1e-8, 1e-6, 3.455_881_788_010_13e-4, 2.924_079_341_476_49e-4),
    (1.0 / 32.0, 1e-6, 1.142_925_709_571_36, 1.060_701_862_328_27),
    (10.0 / 32.0, 1e-6, 4.010_280_776_192_02, 3.747_217_991_426_81),
    (0.5, 1e-5, 4.728_386_984_943_31, 4.377_178_095_681_22),
    (0.5, 1e-6, 5.221_534_444_530_17, 4.886_554_117_462_21),
    (50.0, 1e-12, 122.734_604_859_781, 119.588_408_712_313),
    (1000.0, 0.5, 1_047.995_939_489_24, 999.000_166_433_916),
    (1e6, 1e-300, 1_052_560.565_812_82, 1_052_391.518_907_04),
    (1e6, 0.5, 1_001_657.017_494_38, 999_999.000_000_167),
    (0.5, 0.3, 0.817_639_611_827_363, 0.276_617_398_896_85),
    (1e-4, 1e-100, 0.298_060_167_096_389, 0.296_067_111_843_975),
    (20.0, 1e-9, 59.336_960_284_917_4, 57.231_459_620_914_3),
];

fn close(ours: f64, theirs: f64, relative: f64) -> bool {
    (ours - theirs).abs() <= relative * theirs.abs()
}

#[test]
fn the_accountant_agrees_with_reference_values() {
    for (rho, delta, zcdp, exact) in EPSILONS {
        let ours = (epsilon_zcdp(rho, delta), epsilon_gaussian(2.0 * rho, delta));
        assert!(close(ours.0, zcdp, 1e-9), "rho {rho}, delta {delta}: {} not {zcdp}", ours.0);
        assert!(close(ours.1, exact, 1e-9), "rho {rho}, delta {delta}: {} not {exact}", ours.1);
    }
}

#[test]
fn sigma_and_delta_invert_epsilon() {
    for (rho, delta, _, _) in EPSILONS {
        for rounds in [1u64, 100] {
            let sigma = libm::sqrt(rounds as f64 / (2.0 * rho));
            assert!(close(rho_of_sigma(sigma) * rounds as f64, rho, 1e-12));
            let (zcdp, exact) = (epsilon_zcdp(rho, delta), epsilon_gaussian(2.0 * rho, delta));
            let found = sigma_for_zcdp(zcdp, rounds, delta);
            assert!(close(found, sigma, 1e-6), "{rho} {delta}: {found} not {sigma}");
            let found = sigma_for_gaussian(exact, rounds, delta);
            assert!(close(found, sigma, 1e-6), "{rho} {delta}: {found} not {sigma}");
            assert!(close(delta_zcdp(rho, zcdp), delta, 1e-5));
            assert!(close(delta_gaussian(2.0 * rho, exact), delta, 1e-5));
        }
    }
}

#[test]
fn the_accountant_agrees_with_opendp() {
    for rho in [1e-6, 0.01, 0.3125, 2.0, 50.0, 1000.0] {
        let profile = ZeroConcentratedDivergence::convert(rho).unwrap();
        for delta in [1e-12, 1e-6, 1e-3] {
            let epsilon = epsilon_zcdp(rho, delta);
            if epsilon > 0.0 {
                let theirs = profile.delta(epsilon).unwrap();
                assert!(close(delta_zcdp(rho, epsilon), theirs, 1e-6), "{rho} {delta}: {theirs}");
                assert!(close(theirs, delta, 1e-6), "{rho} {delta}: {theirs}");
            }
        }
    }
}

#[test]
fn the_accountant_permits_nothing_for_numbers_outside_its_domain() {
    for epsilon in [epsilon_zcdp, epsilon_gaussian] {
        assert_eq!(epsilon(0.0, 1e-6), 0.0);
        assert_eq!(epsilon(1.0, 1.0), 0.0);
        // So little is lost that delta alone covers it.
        assert_eq!(epsilon(1e-14, 1e-5), 0.0);
        let bad = [(f64::NAN, 0.1), (f64::INFINITY, 0.1), (-1.0, 0.1), (1.0, 0.0), (1.0, -1.0)];
        for (cost, delta) in bad.into_iter().chain([(1.0, f64::NAN), (f64::NAN, 1.0)]) {
            assert_eq!(epsilon(cost, delta), f64::INFINITY, "{cost} {delta}");
        }
    }
    for delta in [delta_zcdp, delta_gaussian] {
        assert_eq!(delta(0.0, 1.0), 0.0);
        assert_eq!(delta(1.0, f64::INFINITY), 0.0);
        for (cost, epsilon) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (-1.0, 1.0), (1.0, -1.0)] {
            assert_eq!(delta(cost, epsilon), 1.0, "{cost} {epsilon}");
        }
        assert_eq!(delta(1.0, f64::NAN), 1.0);
    }
    for sigma in [sigma_for_zcdp, sigma_for_gaussian] {
        assert_eq!(sigma(1.0, 0, 0.1), 0.0);
        for (epsilon, delta) in [(f64::NAN, 0.1), (-1.0, 0.1), (1.0, 0.0), (1.0, f64::NAN)] {
            assert_eq!(sigma(epsilon, 1, delta), f64::INFINITY, "{epsilon} {delta}");
        }
        // A budget of nothing but delta can be kept with noise.
        assert!(sigma(0.0, 1, 1e-6).is_finite());
    }
    assert_eq!(rho_of_sigma(0.0), f64::INFINITY);
    assert_eq!(rho_of_sigma(f64::NAN), f64::INFINITY);
}

/// Golden figures of the conditional rounding of the paper (b, shares, parties -> s, c~, sigma_loc) for
/// D = 131072, c = C = 1, z = 4, k = 4. Our rounding to nearest has a simpler c~ = s c + sqrt D, so the
/// paper's is computed here, and the solution is checked against our formula for the ring.
#[test]
fn the_ring_formula_gives_the_papers_figures() {
    let golden = [
        (20, 10, 10, 32_766.2, 32_767.2, 41_447.6),
        (20, 67, 100, 26_777.9, 26_779.0, 13_086.3),
        (16, 100, 100, 2_034.6, 2_043.2, 817.3),
    ];
    let padded = 131_072.0f64;
    for (bits, shares, parties, scale, sensitivity, local) in golden {
        let rounded = |s: f64| {
            // beta = e^(-1/2), so that sqrt(2 ln(1 / beta)) = 1.
            let conditional = (s * s + padded / 4.0 + s + padded.sqrt() / 2.0).sqrt();
            (s + padded.sqrt()).min(conditional)
        };
        let local_sigma = |s: f64| 4.0 * rounded(s) / f64::from(shares).sqrt();
        let (mut low, mut high) = (1.0, 1e9);
        for _ in 0..100 {
            let s = f64::midpoint(low, high);
            let spread = super::encode::wrap_spread(parties, s, padded, local_sigma(s));
            if 2.0 * 4.0 * spread <= 2f64.powi(bits) { low = s } else { high = s }
        }
        assert!((low - scale).abs() < 0.06, "s {low} not {scale}");
        assert!((rounded(low) - sensitivity).abs() < 0.06, "c~ {}", rounded(low));
        assert!((local_sigma(low) - local).abs() < 0.06, "sigma {}", local_sigma(low));
    }
    // Ours at 20 bits: 1 + sqrt D / s.
    assert!(close(
        scaled_sensitivity(131_072, 6, 1.0) / (64.0 * padded.sqrt()),
        65.0 / 64.0,
        1e-12
    ));
}

fn sum_of_codes() -> SumOfCodes {
    SumOfCodes {
        dim: 100_000,
        ring_bits: 32,
        parties: 10,
        party_norm: 200.0,
        clip: 1.0,
        sigma: 4.0,
        shares: 5,
    }
}

#[test]
fn the_largest_shift_fits_and_the_next_does_not() {
    let spread = |sum: &SumOfCodes, shift: i32| {
        let s = 2f64.powi(shift) * 131_072f64.sqrt();
        let local = sum.sigma * (s * sum.clip + 131_072f64.sqrt()) / f64::from(sum.shares).sqrt();
        assert!(close(sum.local_sigma(shift), local, 1e-12));
        let n = f64::from(sum.parties);
        let signal = (n * sum.party_norm * s).powi(2) / 131_072.0;
        (signal + n * (0.25 + local * local)).sqrt()
    };
    for ring_bits in [24, 28, 32] {
        let sum = SumOfCodes { ring_bits, ..sum_of_codes() };
        let shift = sum.largest_shift().unwrap();
        let room = 2f64.powi(ring_bits as i32);
        assert!(18.0 * spread(&sum, shift) <= room);
        assert!(18.0 * spread(&sum, shift + 1) > room);
    }
    // In a wide ring the sampler is the bound, or the digits of f64 where there is little noise.
    let sum = SumOfCodes { ring_bits: 64, ..sum_of_codes() };
    let shift = sum.largest_shift().unwrap();
    let bound = 2f64.powi(27);
    assert!(sum.local_sigma(shift) <= bound && sum.local_sigma(shift + 1) > bound);
    assert!(sum.local_noise(shift).is_ok() && sum.local_noise(shift + 2).is_err());
    let sum = SumOfCodes { ring_bits: 64, sigma: 1e-6, ..sum_of_codes() };
    let norm = |shift: i32| 2f64.powi(shift) * 131_072f64.sqrt() * sum.party_norm;
    let shift = sum.largest_shift().unwrap();
    assert!(norm(shift) <= 2f64.powi(48) && norm(shift + 1) > 2f64.powi(48));
    // Small clips shift further.
    let small = SumOfCodes { clip: 1.0 / 1024.0, party_norm: 0.2, ..sum_of_codes() };
    assert!(small.largest_shift().unwrap() > sum_of_codes().largest_shift().unwrap());
}

#[test]
fn a_sum_that_does_not_fit_is_refused() {
    for ring_bits in [0, 1, 8, 12] {
        let sum = SumOfCodes { ring_bits, ..sum_of_codes() };
        assert_eq!(sum.largest_shift(), Err(DpError::RingTooSmall(ring_bits)));
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let sums = [
            SumOfCodes { party_norm: bad, ..sum_of_codes() },
            SumOfCodes { clip: bad, ..sum_of_codes() },
            SumOfCodes { sigma: bad, ..sum_of_codes() },
        ];
        for sum in sums {
            assert_eq!(sum.largest_shift(), Err(DpError::OutOfRange));
        }
    }
    let none = [
        SumOfCodes { parties: 0, ..sum_of_codes() },
        SumOfCodes { shares: 0, ..sum_of_codes() },
        SumOfCodes { dim: 0, ..sum_of_codes() },
    ];
    for sum in none {
        assert_eq!(sum.largest_shift(), Err(DpError::OutOfRange));
    }
    assert!(SumOfCodes { clip: 1e-320, ..sum_of_codes() }.largest_shift().is_err());
}

#[test]
fn tau_and_rho_follow_the_papers_formulas() {
    use core::f64::consts::PI;
    let by_hand = 10.0
        * (1..7)
            .map(|j| (-2.0 * PI * PI * 0.09 * f64::from(j) / f64::from(j + 1)).exp())
            .sum::<f64>();
    assert!(close(tau(0.3, 7), by_hand, 1e-12));
    assert_eq!(tau(0.3, 1), 0.0);
    // The terms left out are bounded by the last one added, from above.
    let exact = 10.0
        * (1..9999u32)
            .map(|j| (-2.0 * PI * PI * 0.09 * f64::from(j) / f64::from(j + 1)).exp())
            .sum::<f64>();
    assert!(tau(0.3, 9999) >= exact && close(tau(0.3, 9999), exact, 1e-3));
    // From sigma_loc 5 on, nothing is left of tau.
    assert!(close(ddg_rho(32_767.2, 131_072.0, 41_447.6, 10), 1.0 / 32.0, 1e-5));
    let narrow = ddg_rho(1.0, 16.0, 0.5, 4);
    let t = tau(0.5, 4);
    assert!(close(narrow, (0.5 + t * 16.0).min((1.0 + 4.0 * t).powi(2) / 2.0), 1e-12));
    assert!(narrow > 0.5);
    let sum = sum_of_codes();
    let shift = sum.largest_shift().unwrap();
    assert!(close(sum.rho(shift, sum.local_sigma(shift)), 1.0 / 32.0, 1e-12));
    for (sigma, shares) in [(0.0, 5), (f64::NAN, 5), (-1.0, 5), (1.0, 0)] {
        assert_eq!(ddg_rho(1.0, 16.0, sigma, shares), f64::INFINITY);
    }
}

/// H diag(signs) x by its definition.
fn rotate_slowly(rotation: &Rotation, x: &[i64], signs: &[i64]) -> Vec<i64> {
    (0..rotation.padded())
        .map(|row| {
            let entry = |column: usize| 1 - 2 * i64::from((row & column).count_ones() % 2);
            x.iter().zip(signs).enumerate().map(|(j, (x, sign))| entry(j) * sign * x).sum()
        })
        .collect()
}

/// The signs of a rotation, read off the decoding of unit vectors of the first row.
fn signs(rotation: &Rotation) -> Vec<i64> {
    let mut unit = vec![0i64; rotation.padded()];
    unit[0] = 1;
    rotation.decode(&unit).into_iter().map(|sign| i64::try_from(sign).unwrap()).collect()
}

#[test]
fn whole_numbers_are_rotated_and_decoded_exactly() {
    for (dim, padded) in [(1u64, 1usize), (2, 2), (3, 4), (64, 64), (65, 128), (100, 128)] {
        let rotation = Rotation::new([dim as u8; 32], dim);
        assert_eq!(rotation.padded(), padded);
        assert_eq!(rotation.decode_scale_log2(3), padded.ilog2() as i32 + 3);
        let x: Vec<i64> = (0..dim as i64).map(|j| (j * 7919) % 1001 - 500).collect();
        let reals: Vec<f64> = x.iter().map(|x| *x as f64).collect();
        let code = rotation.encode(&reals, 0);
        assert_eq!(code, rotate_slowly(&rotation, &x, &signs(&rotation)));
        let decoded = rotation.decode(&code);
        let expected: Vec<i128> = x.iter().map(|x| i128::from(*x) * padded as i128).collect();
        assert_eq!(decoded, expected);
    }
}

#[test]
fn signs_are_balanced_and_follow_the_seed() {
    // More than one block of the keystream.
    let first = signs(&Rotation::new([1; 32], 10_000));
    assert!(first.iter().all(|sign| sign.abs() == 1));
    assert!(first.iter().sum::<i64>().abs() < 500);
    assert_eq!(first, signs(&Rotation::new([1; 32], 10_000)));
    assert_eq!(&first[..5000], signs(&Rotation::new([1; 32], 5000)));
    assert_ne!(first, signs(&Rotation::new([2; 32], 10_000)));
    assert_ne!(first[..4096], first[4096..8192]);
    assert_eq!(signs(&Rotation::new([9; 32], 10)), GOLDEN_SIGNS);
}

const GOLDEN_SIGNS: [i64; 10] = [1, -1, 1, 1, -1, -1, -1, -1, -1, -1];

#[test]
fn rounding_is_half_to_even() {
    let rotation = Rotation::new([3; 32], 1);
    let sign = signs(&rotation)[0];
    for (x, rounded) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (0.499, 0)] {
        assert_eq!(rotation.encode(&[x], 0), [sign * rounded], "{x}");
        assert_eq!(rotation.encode(&[x / 8.0], 3), [sign * rounded], "{x} shifted");
        assert_eq!(rotation.encode(&[x * 8.0], -3), [sign * rounded], "{x} shifted back");
    }
}

#[test]
fn what_cannot_be_encoded_gives_an_empty_code() {
    let rotation = Rotation::new([4; 32], 3);
    assert_eq!(rotation.encode(&[1.0, 2.0, 3.0], 0).len(), 4);
    assert!(rotation.encode(&[1.0, 2.0], 0).is_empty());
    assert!(rotation.encode(&[1.0, 2.0, 3.0, 4.0], 0).is_empty());
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 2f64.powi(53)] {
        assert!(rotation.encode(&[1.0, bad, 1.0], 0).is_empty(), "{bad}");
    }
    assert!(rotation.encode(&[1.0, 1.0, 1.0], 60).is_empty());
    assert!(rotation.decode(&[1, 2, 3]).is_empty());
    assert_eq!(rotation.decode(&[i64::MIN; 4])[0].unsigned_abs(), 1 << 65);
    // No memory is taken for a dimension that nothing has.
    let huge = Rotation::new([4; 32], u64::MAX);
    assert!(huge.encode(&[1.0], 0).is_empty());
    assert!(huge.decode(&[1]).is_empty());
}

/// The whole path: encode, add noise, sum in a ring of 32 bits, decode.
#[test]
fn a_noised_sum_decodes_within_its_noise() {
    let sum = SumOfCodes { dim: 1000, party_norm: 2.0, parties: 5, ..sum_of_codes() };
    let shift = sum.largest_shift().unwrap();
    let rotation = Rotation::new([5; 32], sum.dim);
    let noise = sum.local_noise(shift).unwrap();
    let mut rng = rng(6);
    let mut total = vec![0u32; rotation.padded()];
    for party in 0..5 {
        // One large coordinate, so that without the rotation the ring would not hold it.
        let mut x = vec![0.0; 1000];
        x[party] = 2.0;
        let mut code = rotation.encode(&x, shift);
        noise.add_to(&mut rng, &mut code);
        for (total, value) in total.iter_mut().zip(code) {
            *total = total.wrapping_add(value as u32);
        }
    }
    let lifted: Vec<i64> = total.iter().map(|word| i64::from(word.cast_signed())).collect();
    let unit = 2f64.powi(rotation.decode_scale_log2(shift));
    let decoded: Vec<f64> = rotation.decode(&lifted).iter().map(|v| *v as f64 / unit).collect();
    // Per value, the noise of the sum is sigma (1 + a little) in units of the clip.
    let errors: Vec<f64> = (0..1000).map(|j| decoded[j] - if j < 5 { 2.0 } else { 0.0 }).collect();
    let mean_square = errors.iter().map(|e| e * e).sum::<f64>() / 1000.0;
    assert!(close(mean_square, 16.0, 0.2), "{mean_square}");
}

proptest! {
    #[test]
    fn decoding_undoes_encoding_up_to_rounding(
        x in proptest::collection::vec(-1000.0f64..1000.0, 1..200),
        seed: [u8; 32],
        shift in 0i32..30,
    ) {
        let rotation = Rotation::new(seed, x.len() as u64);
        let unit = 2f64.powi(rotation.decode_scale_log2(shift));
        let decoded = rotation.decode(&rotation.encode(&x, shift));
        prop_assert_eq!(decoded.len(), x.len());
        // Each of D codes is off by half a step, so a value by D / 2 of D 2^shift.
        let bound = 0.5 * 2f64.powi(-shift) + 1e-9;
        for (x, value) in x.iter().zip(decoded) {
            prop_assert!((value as f64 / unit - x).abs() <= bound);
        }
    }

    #[test]
    fn codes_of_close_vectors_differ_by_the_scaled_sensitivity(
        x in proptest::collection::vec(-100.0f64..100.0, 1..100),
        step in proptest::collection::vec(-1.0f64..1.0, 100),
        seed: [u8; 32],
        shift in -3i32..20,
    ) {
        let rotation = Rotation::new(seed, x.len() as u64);
        let norm = step[..x.len()].iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-9);
        let moved: Vec<f64> = x.iter().zip(&step).map(|(x, v)| x + v / norm).collect();
        let (a, b) = (rotation.encode(&x, shift), rotation.encode(&moved, shift));
        let apart = a.iter().zip(b).map(|(a, b)| ((a - b) as f64).powi(2)).sum::<f64>().sqrt();
        prop_assert!(apart <= rotation.scaled_sensitivity(1.0, shift) * (1.0 + 1e-9));
    }

    #[test]
    fn epsilon_shrinks_with_noise_and_with_delta(
        rho in 1e-9f64..1e4, factor in 1.01f64..10.0, log_delta in -600.0f64..-1.0,
    ) {
        let delta = log_delta.exp();
        for epsilon in [epsilon_zcdp, epsilon_gaussian] {
            let here = epsilon(rho, delta);
            prop_assert!(epsilon(rho * factor, delta) >= here);
            prop_assert!(epsilon(rho, delta / factor) >= here);
        }
        // The exact figure never exceeds the one by zCDP.
        prop_assert!(epsilon_gaussian(2.0 * rho, delta) <= epsilon_zcdp(rho, delta) * (1.0 + 1e-9));
    }
}
