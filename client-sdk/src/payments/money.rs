//! The currencies of the generated payments and their fixed rates.

/// A currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Currency {
    /// Euro.
    Eur,
    /// US dollar.
    Usd,
    /// Pound sterling.
    Gbp,
    /// Swiss franc.
    Chf,
    /// Japanese yen.
    Jpy,
    /// Swedish krona.
    Sek,
    /// Polish zloty.
    Pln,
    /// Indian rupee.
    Inr,
}

impl Currency {
    /// All of them; [`Currency::index`] is the place here.
    pub const ALL: [Self; 8] =
        [Self::Eur, Self::Usd, Self::Gbp, Self::Chf, Self::Jpy, Self::Sek, Self::Pln, Self::Inr];

    /// The home currencies of banks by rank; they repeat beyond 12 banks.
    const HOME: [Self; 12] = [
        Self::Eur,
        Self::Usd,
        Self::Eur,
        Self::Gbp,
        Self::Usd,
        Self::Chf,
        Self::Eur,
        Self::Sek,
        Self::Jpy,
        Self::Pln,
        Self::Gbp,
        Self::Inr,
    ];

    /// The home currency of the bank of rank `rank` from 0.
    pub(super) fn home(rank: usize) -> Self {
        Self::HOME[rank % Self::HOME.len()]
    }

    /// Its number, below 8.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Euros that one unit is worth.
    #[must_use]
    pub const fn eur(self) -> f64 {
        match self {
            Self::Eur => 1.0,
            Self::Usd => 0.92,
            Self::Gbp => 1.17,
            Self::Chf => 1.04,
            Self::Jpy => 0.0062,
            Self::Sek => 0.088,
            Self::Pln => 0.232,
            Self::Inr => 0.011,
        }
    }

    /// Its three letters of ISO 4217.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Eur => "EUR",
            Self::Usd => "USD",
            Self::Gbp => "GBP",
            Self::Chf => "CHF",
            Self::Jpy => "JPY",
            Self::Sek => "SEK",
            Self::Pln => "PLN",
            Self::Inr => "INR",
        }
    }

    /// The currency of three letters.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|currency| currency.code() == code)
    }
}

/// An amount of money in hundredths of its unit, whatever the currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// The unit.
    pub currency: Currency,
    /// Hundredths, at least 1.
    pub cents: u64,
}

impl Amount {
    /// The amount worth e^`log_eur` euros, rounded to hundredths; at least one.
    pub(super) fn worth(log_eur: f64, currency: Currency) -> Self {
        let cents = libm::rint(100.0 * libm::exp(log_eur) / currency.eur());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number within 1..2^53"
        )]
        let cents = cents.clamp(1.0, 9_007_199_254_740_992.0) as u64;
        Self { currency, cents }
    }

    /// The natural logarithm of its worth in euros.
    #[must_use]
    pub fn log_eur(self) -> f64 {
        libm::log(self.cents as f64 / 100.0 * self.currency.eur())
    }

    /// Units and hundredths, such as `1250.00`.
    #[must_use]
    pub fn format(self) -> String {
        format!("{}.{:02}", self.cents / 100, self.cents % 100)
    }

    /// The amount above zero that [`Amount::format`] writes so.
    #[must_use]
    pub fn parse(text: &str, currency: Currency) -> Option<Self> {
        let (units, hundredths) = text.split_once('.')?;
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(units) || !digits(hundredths) || hundredths.len() != 2 {
            return None;
        }
        let (units, hundredths) = (units.parse::<u64>().ok()?, hundredths.parse::<u64>().ok()?);
        let cents = units.checked_mul(100)?.checked_add(hundredths)?;
        (cents > 0).then_some(Self { currency, cents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_they_are_written_and_others_are_refused() {
        let amount = |cents| Amount { currency: Currency::Jpy, cents };
        assert_eq!(Amount::worth(libm::log(6.2), Currency::Jpy), amount(100_000));
        assert_eq!(Amount::worth(-50.0, Currency::Jpy), amount(1));
        assert!((amount(100_000).log_eur() - libm::log(6.2)).abs() < 1e-12);
        for cents in [1, 99, 100, 123_456] {
            assert_eq!(Amount::parse(&amount(cents).format(), Currency::Jpy), Some(amount(cents)));
        }
        for bad in ["", "1", "1.", "1.5", ".50", "-1.00", "0.00", "1.005", "9999999999999999999.00"]
        {
            assert_eq!(Amount::parse(bad, Currency::Jpy), None, "{bad}");
        }
    }

    #[test]
    fn currencies_have_their_place_and_code() {
        for (index, currency) in Currency::ALL.into_iter().enumerate() {
            assert_eq!(currency.index(), index);
            assert_eq!(Currency::parse(currency.code()), Some(currency));
        }
        assert_eq!(Currency::parse("eur"), None);
    }
}
