//! What noise costs: from the noise of all releases to (epsilon, delta), and back.
//!
//! Sigma is always in units of the sensitivity. Every search ends on the safe side of the answer, and
//! numbers outside their domain give the answer that permits nothing: an infinite epsilon or sigma, a
//! delta of 1. All formulas work with logarithms, so that no delta down to 1e-300 and no epsilon
//! overflows.

/// Steps of a bisection: more than the bits of an `f64`, so it ends at neighbouring numbers or nearly
/// so.
const BISECTIONS: u32 = 100;

/// The least epsilon for which rho-zCDP implies (epsilon, `delta`)-DP, by the tight conversion
/// delta = inf over a > 1 of exp((a - 1)(a rho - epsilon)) / (a - 1) (1 - 1/a)^a (Canonne, Kamath,
/// Steinke, arXiv 2004.00010, proposition 12).
#[must_use]
pub fn epsilon_zcdp(rho: f64, delta: f64) -> f64 {
    // epsilon = rho + 2 sqrt(rho ln(1 / delta)) is always enough (Bun, Steinke, arXiv 1605.02065).
    least_epsilon(rho, delta, log_delta_zcdp, |rho, log| rho + 2.0 * libm::sqrt(rho * log))
}

/// The least epsilon of Gaussian releases with squared mu = sum of 1/sigma^2 (sigma in units of the
/// sensitivity): delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) (Balle, Wang, arXiv
/// 1805.06530).
///
/// It is exact for continuous noise; discrete Gaussian noise at least as wide as its sensitivity is
/// not above it by more than the last digits.
#[must_use]
pub fn epsilon_gaussian(mu_squared: f64, delta: f64) -> f64 {
    // Phi(mu/2 - epsilon/mu) <= delta is enough, and Phi(-x) <= e^(-x^2 / 2).
    least_epsilon(mu_squared, delta, log_delta_gaussian, |mu_squared, log| {
        mu_squared / 2.0 + libm::sqrt(mu_squared * 2.0 * log)
    })
}

/// The delta of rho-zCDP at `epsilon`, by the conversion of [`epsilon_zcdp`].
#[must_use]
pub fn delta_zcdp(rho: f64, epsilon: f64) -> f64 {
    delta_of(rho, epsilon, log_delta_zcdp)
}

/// The delta at `epsilon` of Gaussian releases, as [`epsilon_gaussian`].
#[must_use]
pub fn delta_gaussian(mu_squared: f64, epsilon: f64) -> f64 {
    delta_of(mu_squared, epsilon, log_delta_gaussian)
}

/// The least sigma with which `rounds` releases stay within (`epsilon`, `delta`), by zCDP: rho =
/// rounds / (2 sigma^2).
#[must_use]
pub fn sigma_for_zcdp(epsilon: f64, rounds: u64, delta: f64) -> f64 {
    least_sigma(epsilon, rounds, delta, |mu_squared, epsilon| {
        log_delta_zcdp(mu_squared / 2.0, epsilon)
    })
}

/// As [`sigma_for_zcdp`], by the exact Gaussian: mu^2 = rounds / sigma^2.
#[must_use]
pub fn sigma_for_gaussian(epsilon: f64, rounds: u64, delta: f64) -> f64 {
    least_sigma(epsilon, rounds, delta, log_delta_gaussian)
}

/// rho of one release of Gaussian noise: 1 / (2 sigma^2).
#[must_use]
pub fn rho_of_sigma(sigma: f64) -> f64 {
    if sigma > 0.0 { 1.0 / (2.0 * sigma * sigma) } else { f64::INFINITY }
}

fn least_epsilon(
    cost: f64,
    delta: f64,
    log_delta: impl Fn(f64, f64) -> f64,
    enough: impl Fn(f64, f64) -> f64,
) -> f64 {
    if cost == 0.0 || delta >= 1.0 {
        return if cost.is_nan() { f64::INFINITY } else { 0.0 };
    }
    // The comparisons are false for NaN.
    if !(cost > 0.0 && cost.is_finite() && delta > 0.0) {
        return f64::INFINITY;
    }
    let target = libm::log(delta);
    if log_delta(cost, 0.0) <= target {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, enough(cost, -target));
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if log_delta(cost, middle) <= target { high = middle } else { low = middle }
    }
    high
}

fn delta_of(cost: f64, epsilon: f64, log_delta: impl Fn(f64, f64) -> f64) -> f64 {
    if !(cost >= 0.0 && cost.is_finite() && epsilon >= 0.0) {
        return 1.0;
    }
    if cost == 0.0 || epsilon.is_infinite() {
        return 0.0;
    }
    libm::exp(log_delta(cost, epsilon)).min(1.0)
}

fn least_sigma(epsilon: f64, rounds: u64, delta: f64, log_delta: impl Fn(f64, f64) -> f64) -> f64 {
    if rounds == 0 || delta >= 1.0 {
        return if epsilon.is_nan() { f64::INFINITY } else { 0.0 };
    }
    if !(epsilon >= 0.0 && delta > 0.0) {
        return f64::INFINITY;
    }
    let target = libm::log(delta);
    #[expect(clippy::cast_precision_loss, reason = "a count of rounds, far below 2^53")]
    let rounds = rounds as f64;
    // Search in ln sigma, wider than any pair that can be told from 0 and infinity.
    let (mut low, mut high) = (-160.0, 320.0);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        let sigma = libm::exp(middle);
        if log_delta(rounds / sigma / sigma, epsilon) <= target {
            high = middle
        } else {
            low = middle
        }
    }
    libm::exp(high)
}

/// ln delta of rho-zCDP at `epsilon`.
fn log_delta_zcdp(rho: f64, epsilon: f64) -> f64 {
    // With m = a - 1, ln(1 - 1/a) = -ln(1 + 1/m). The exponent is convex in a; its derivative
    // (2a - 1) rho - epsilon + ln(1 - 1/a) grows with a. Bisect in u = ln m.
    let log_keep = |m: f64| -libm::log1p(1.0 / m);
    let (mut low, mut high) = (-100.0, 700.0);
    for _ in 0..BISECTIONS {
        let u = f64::midpoint(low, high);
        let m = libm::exp(u);
        if (2.0 * m + 1.0) * rho - epsilon + log_keep(m) < 0.0 { low = u } else { high = u }
    }
    // Any m gives a valid delta, so this end of the bisection is as safe as the other.
    let u = f64::midpoint(low, high);
    let m = libm::exp(u);
    m * ((m + 1.0) * rho - epsilon) + (m + 1.0) * log_keep(m) - u
}

/// ln delta of Gaussian releases at `epsilon`.
fn log_delta_gaussian(mu_squared: f64, epsilon: f64) -> f64 {
    let mu = libm::sqrt(mu_squared);
    // delta = Phi(-a) - e^epsilon Phi(-b), and e^epsilon phi(b) = phi(a) for these two.
    let (a, b) = (epsilon / mu - mu / 2.0, epsilon / mu + mu / 2.0);
    let log_density = -a * a / 2.0 - LN_SQRT_2_PI;
    if a > 0.0 {
        log_density + libm::log(mills(a) - mills(b))
    } else {
        let tail = 0.5 * libm::erfc(a / core::f64::consts::SQRT_2);
        libm::log(tail - libm::exp(log_density) * mills(b))
    }
}

/// ln sqrt(2 pi).
const LN_SQRT_2_PI: f64 = 0.918_938_533_204_672_7;

/// Mills' ratio Phi(-x) / phi(x) for x >= 0.
fn mills(x: f64) -> f64 {
    if x < 6.0 {
        let tail = 0.5 * libm::erfc(x / core::f64::consts::SQRT_2);
        return tail * libm::exp(x * x / 2.0 + LN_SQRT_2_PI);
    }
    // Laplace's continued fraction 1 / (x + 1 / (x + 2 / (x + ..))), converged to the last bits here.
    let mut denominator = x;
    for k in (1..=60).rev() {
        denominator = x + f64::from(k) / denominator;
    }
    1.0 / denominator
}
