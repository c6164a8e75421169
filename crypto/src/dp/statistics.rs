//! Chi-square tests and exact distributions, for tests of the samplers only.

/// Probability that a chi-square variable of `degrees` degrees exceeds `statistic` (the normal
/// approximation of Wilson and Hilferty to its cube root).
pub(super) fn chi_square_tail(statistic: f64, degrees: usize) -> f64 {
    let spread = 2.0 / (9.0 * degrees as f64);
    let normal =
        ((statistic / degrees as f64).powf(1.0 / 3.0) - (1.0 - spread)) / libm::sqrt(spread);
    0.5 * libm::erfc(normal / core::f64::consts::SQRT_2)
}

/// p of `samples` against weights of the values `-reach..=reach`; what lies outside is joined to the
/// ends, and neighbours until at least ten are expected.
pub(super) fn goodness_of_fit(samples: &[i64], reach: i64, weight: impl Fn(i64) -> f64) -> f64 {
    let values: Vec<i64> = (-reach..=reach).collect();
    let weights: Vec<f64> = values.iter().map(|x| weight(*x)).collect();
    let total: f64 = weights.iter().sum();
    let mut counts = vec![0u64; values.len()];
    for sample in samples {
        counts[usize::try_from((*sample).clamp(-reach, reach) + reach).unwrap()] += 1;
    }
    let mut bins = vec![(0.0, 0.0)];
    for (count, weight) in counts.iter().zip(weights) {
        let last = bins.last_mut().unwrap();
        last.0 += *count as f64;
        last.1 += weight / total * samples.len() as f64;
        if last.1 >= 10.0 {
            bins.push((0.0, 0.0));
        }
    }
    let rest = bins.pop().unwrap();
    let last = bins.last_mut().unwrap();
    *last = (last.0 + rest.0, last.1 + rest.1);
    assert!(bins.len() > 1, "one bin tests nothing");
    let statistic: f64 = bins.iter().map(|(seen, due)| (seen - due) * (seen - due) / due).sum();
    chi_square_tail(statistic, bins.len() - 1)
}

/// p of two sets of samples of one size being from one distribution, over bins of at least ten each.
pub(super) fn two_samples(left: &[i64], right: &[i64]) -> f64 {
    assert_eq!(left.len(), right.len());
    let mut counts = std::collections::BTreeMap::<i64, (f64, f64)>::new();
    left.iter().for_each(|x| counts.entry(*x).or_default().0 += 1.0);
    right.iter().for_each(|x| counts.entry(*x).or_default().1 += 1.0);
    let mut bins = vec![(0.0, 0.0)];
    for (l, r) in counts.into_values() {
        let last = bins.last_mut().unwrap();
        *last = (last.0 + l, last.1 + r);
        if last.0 + last.1 >= 20.0 {
            bins.push((0.0, 0.0));
        }
    }
    let rest = bins.pop().unwrap();
    let last = bins.last_mut().unwrap();
    *last = (last.0 + rest.0, last.1 + rest.1);
    assert!(bins.len() > 1, "one bin tests nothing");
    let statistic: f64 = bins.iter().map(|(l, r)| (l - r) * (l - r) / (l + r)).sum();
    chi_square_tail(statistic, bins.len() - 1)
}

/// Mean square of samples whose mean is zero.
pub(super) fn variance(samples: &[i64]) -> f64 {
    samples.iter().map(|x| (*x as f64) * (*x as f64)).sum::<f64>() / samples.len() as f64
}
