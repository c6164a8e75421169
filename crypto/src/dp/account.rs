//! What noise costs: from the noise of all releases to (epsilon, delta).

/// The least epsilon for which rho-zCDP implies (epsilon, `delta`)-DP, by the tight conversion
/// delta = inf over a > 1 of exp((a - 1)(a rho - epsilon)) / (a - 1) (1 - 1/a)^a (Canonne, Kamath,
/// Steinke, arXiv 2004.00010, proposition 12).
#[must_use]
pub fn epsilon_zcdp(rho: f64, delta: f64) -> f64 {
    if rho <= 0.0 {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while delta_zcdp(rho, high) > delta && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if delta_zcdp(rho, middle) > delta { low = middle } else { high = middle }
    }
    high
}

fn delta_zcdp(rho: f64, epsilon: f64) -> f64 {
    let log_delta =
        |a: f64| (a - 1.0) * (a * rho - epsilon) + a * libm::log1p(-1.0 / a) - libm::log(a - 1.0);
    // The exponent is convex in a: search its minimum in the logarithm of a - 1.
    let (mut low, mut high) = (-30.0f64, 30.0f64);
    for _ in 0..200 {
        let (p, q) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if log_delta(1.0 + libm::exp(p)) < log_delta(1.0 + libm::exp(q)) {
            high = q
        } else {
            low = p
        }
    }
    libm::exp(log_delta(1.0 + libm::exp(f64::midpoint(low, high)))).min(1.0)
}

/// The least epsilon of Gaussian releases with squared mu = sum of 1/sigma^2 (sigma in units of the
/// sensitivity): delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) (Balle, Wang, arXiv 1805.06530).
#[must_use]
pub fn epsilon_gaussian(mu_squared: f64, delta: f64) -> f64 {
    if mu_squared <= 0.0 {
        return 0.0;
    }
    let mu = libm::sqrt(mu_squared);
    let phi = |x: f64| 0.5 * libm::erfc(-x / core::f64::consts::SQRT_2);
    let delta_at = |e: f64| phi(mu / 2.0 - e / mu) - libm::exp(e) * phi(-mu / 2.0 - e / mu);
    let (mut low, mut high) = (0.0, 1.0);
    while delta_at(high) > delta && high < 500.0 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if delta_at(middle) > delta { low = middle } else { high = middle }
    }
    high
}
