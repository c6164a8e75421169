//! Single payments: normal ones, and the ways in which some are anomalous.

use super::bank::HARD_FLAG;
use super::draw::{Draw, Weights};
use super::money::{Amount, Currency};
use super::record::Anomaly;
use super::world::{FLAGS, World};

/// Share of payments, of any kind, whose beneficiary account is mistyped.
const MISTYPED: f64 = 0.0005;

/// Share of payments with another name than the account's, and where the account has flag 4.
const MISMATCH: f64 = 0.003;
const MISMATCH_REPORTED: f64 = 0.5;

/// A payment before it has texts.
pub(super) struct Sketch {
    pub(super) anomaly: Option<Anomaly>,
    /// Second of the day.
    pub(super) second: u64,
    pub(super) payer: u32,
    pub(super) payee: u32,
    pub(super) settled: Amount,
    pub(super) instructed: Amount,
    /// Days from payment to settlement.
    pub(super) delay: u64,
    pub(super) wrong_name: bool,
    pub(super) mistyped: bool,
}

/// How payments are drawn.
pub(super) struct Traffic<'a> {
    world: &'a World,
    delays: Weights,
    /// Flags of the beneficiary of each type of anomaly, and of type C's payer.
    beneficiary: [Weights; Anomaly::ALL.len()],
    ordering: Weights,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let percent = |shares: [f64; FLAGS]| Weights::new(shares);
        let a_and_b = [55.0, 3.0, 7.0, 3.0, 4.0, 10.0, 8.0, 10.0];
        Self {
            world,
            delays: Weights::new([0.55, 0.30, 0.12, 0.027, 0.003]),
            beneficiary: [
                percent(a_and_b),
                percent(a_and_b),
                percent([4.0, 2.0, 4.0, 2.0, 4.0, 9.0, 30.0, 45.0]),
                percent([20.0, 2.0, 45.0, 2.0, 3.0, 20.0, 4.0, 4.0]),
                percent([4.0, 8.0, 28.0, 12.0, 10.0, 32.0, 3.0, 3.0]),
            ],
            ordering: percent([80.0, 2.0, 2.0, 3.0, 0.0, 6.0, 4.0, 3.0]),
        }
    }

    /// A normal payment.
    pub(super) fn normal(&self, draw: &mut Draw) -> Sketch {
        let world = self.world;
        let mut payer = world.payer(draw);
        let moves = draw.chance(0.998);
        if moves && world.account(payer).flag >= HARD_FLAG {
            payer = world.open(draw, payer, payer);
        }
        let mut payee = self.usual_payee(draw, payer);
        if moves && world.account(payee).flag >= HARD_FLAG {
            payee = world.open(draw, payee, payer);
        }
        self.sketch(draw, None, payer, payee)
    }

    /// A payment of type `anomaly`, by `payer` where one is given.
    pub(super) fn anomalous(
        &self,
        draw: &mut Draw,
        anomaly: Anomaly,
        payer: Option<u32>,
    ) -> Sketch {
        let world = self.world;
        let mut payer = payer.unwrap_or_else(|| world.payer(draw));
        if anomaly == Anomaly::Status {
            payer = world.flagged(draw, payer, &self.ordering, payer);
        }
        let payee = match anomaly {
            Anomaly::Amount | Anomaly::Status => self.usual_payee(draw, payer),
            Anomaly::Corridor => world.rare_counterparty(draw, payer),
            Anomaly::Structuring | Anomaly::Combined => world.counterparty(draw, payer),
        };
        let payee = world.flagged(draw, payee, &self.beneficiary[anomaly as usize], payer);
        self.sketch(draw, Some(anomaly), payer, payee)
    }

    /// Whoever starts a group of structured payments.
    pub(super) fn structurer(&self, draw: &mut Draw) -> u32 {
        self.world.payer(draw)
    }

    /// Someone the account pays regularly, or a fresh counterparty.
    fn usual_payee(&self, draw: &mut Draw, payer: u32) -> u32 {
        if draw.chance(0.82) {
            draw.pick(&self.world.account(payer).regulars).unwrap_or(0)
        } else {
            self.world.counterparty(draw, payer)
        }
    }

    fn sketch(&self, draw: &mut Draw, anomaly: Option<Anomaly>, payer: u32, payee: u32) -> Sketch {
        let (from, to) = (self.world.account(payer), self.world.account(payee));
        let mut hour = from.hour + draw.normal(0.0, 2.2);
        if draw.chance(0.01) {
            hour = draw.uniform(0.0, 24.0);
        }
        let mut log_eur = draw.normal(from.log_eur.0, from.log_eur.1);
        if draw.chance(0.003) {
            log_eur += draw.normal(1.5, 1.0);
        }
        let any = |draw: &mut Draw| draw.pick(&Currency::ALL).unwrap_or(Currency::Eur);
        let settled = if draw.chance(0.85) { Currency::home(to.bank) } else { any(draw) };
        let mut instructed = if draw.chance(0.9) { settled } else { Currency::home(from.bank) };
        let mut gap = if instructed == settled { 0.0 } else { draw.normal(0.0, 0.01) };
        if draw.chance(0.0005) {
            gap += draw.normal(0.0, 0.15);
        }
        let mut delay = [0, 1, 2, 3, 5][draw.weighted(&self.delays)];
        let usual_mismatch = if to.flag == 4 { MISMATCH_REPORTED } else { MISMATCH };
        let mut wrong_name = draw.chance(usual_mismatch);

        match anomaly {
            None | Some(Anomaly::Status) => {}
            Some(Anomaly::Amount) => {
                if draw.chance(0.5) {
                    log_eur += draw.uniform(3.0, 5.0);
                } else {
                    log_eur += draw.uniform(0.5, 1.5);
                    while instructed == settled {
                        instructed = any(draw);
                    }
                    let more = draw.uniform(0.3, 0.9);
                    gap += if draw.chance(0.5) { more } else { -more };
                }
            }
            Some(Anomaly::Corridor) => {
                hour = from.hour + 12.0 + draw.normal(0.0, 1.5);
                delay = draw.pick(&[3, 5, 7]).unwrap_or(3);
            }
            Some(Anomaly::Structuring) => {
                log_eur = libm::log(draw.uniform(8_500.0, 9_999.0));
                hour += 3.0;
            }
            Some(Anomaly::Combined) => {
                log_eur += draw.uniform(0.6, 1.6);
                delay = draw.pick(&[0, 1, 2, 3]).unwrap_or(0);
            }
        }
        if let Some(anomaly) = anomaly {
            wrong_name |= draw.chance(anomaly.extra_mismatch());
        }
        Sketch {
            anomaly,
            second: second_of(hour),
            payer,
            payee,
            settled: Amount::worth(log_eur, settled),
            instructed: Amount::worth(log_eur + gap, instructed),
            delay,
            wrong_name,
            mistyped: draw.chance(MISTYPED),
        }
    }
}

/// The second of the day at hour `hour` modulo 24.
fn second_of(hour: f64) -> u64 {
    let second = libm::floor(hour.rem_euclid(24.0) * 3600.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number within 0..=86399"
    )]
    let second = second.clamp(0.0, 86_399.0) as u64;
    second
}
