//! Banks, accounts and who pays whom, before any payment.

use super::bank::HARD_FLAG;
use super::draw::{Draw, Weights};
use super::generate::PaymentsSpec;
use super::record::AccountRow;

/// Counterparties that an account pays again and again.
const REGULARS: usize = 6;

/// Shares of accounts with flags 1 to 7; the rest has flag 0.
const FLAG_SHARES: [f64; 7] = [0.012, 0.010, 0.006, 0.002, 0.003, 0.003, 0.010];

/// Values of a flag.
pub(super) const FLAGS: usize = 8;

/// Corridors of a bank that count as its rarest.
const RAREST: usize = 3;

/// Account numbers have ten digits: a place times this factor, plus an offset, modulo 10^10.
const NUMBERS: u64 = 10_000_000_000;
const FACTOR: u64 = 3_141_592_653;
const OFFSET: u64 = 2_718_281_828;

/// An account.
pub(super) struct Account {
    pub(super) bank: usize,
    pub(super) flag: u8,
    /// Mean and standard deviation of the log amount, in euros, that it pays.
    pub(super) log_eur: (f64, f64),
    /// Its usual hour.
    pub(super) hour: f64,
    pub(super) regulars: [u32; REGULARS],
    name: Name,
    address: u32,
}

/// A name by its places in the lists below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    corporate: bool,
    first: u8,
    second: u8,
}

impl Name {
    fn draw(draw: &mut Draw, corporate: bool) -> Self {
        let (first, second) = if corporate {
            (COMPANY_NAMES.len(), COMPANY_KINDS.len())
        } else {
            (GIVEN_NAMES.len(), FAMILY_NAMES.len())
        };
        let mut place = |bound| u8::try_from(draw.below(bound)).unwrap_or(u8::MAX);
        Self { corporate, first: place(first), second: place(second) }
    }

    /// A name of the same kind that is another one.
    pub(super) fn other(self, draw: &mut Draw) -> Self {
        loop {
            let other = Self::draw(draw, self.corporate);
            if other != self {
                return other;
            }
        }
    }

    pub(super) fn text(self) -> String {
        let (first, second): (&[&str], &[&str]) = if self.corporate {
            (&COMPANY_NAMES, &COMPANY_KINDS)
        } else {
            (&GIVEN_NAMES, &FAMILY_NAMES)
        };
        let word = |list: &[&'static str], place: u8| list.get(usize::from(place)).copied();
        let words = [word(first, self.first), word(second, self.second)];
        words.map(Option::unwrap_or_default).join(" ")
    }
}

/// One bank's view of the payment graph.
struct Bank {
    accounts: Vec<u32>,
    /// Accounts of each flag.
    by_flag: [Vec<u32>; FLAGS],
    /// Accounts of a flag below [`HARD_FLAG`].
    open: Vec<u32>,
    /// Receiving banks, by corridor share.
    corridors: Weights,
    rarest: Vec<usize>,
}

/// All accounts, and who pays whom.
pub(super) struct World {
    banks: Vec<Bank>,
    pub(super) accounts: Vec<Account>,
    activity: Weights,
}

impl World {
    pub(super) fn new(spec: &PaymentsSpec) -> Self {
        let count = spec.banks as usize;
        let sizes: Vec<f64> = (1..=spec.banks).map(|rank| libm::pow(rank.into(), -0.8)).collect();
        let mut banks = corridors(&sizes, &mut Draw::new(spec.seed, "corridors", 0));

        let by_size = Weights::new(sizes);
        let mut draw = Draw::new(spec.seed, "accounts", 0);
        let total = usize::try_from(spec.accounts()).unwrap_or(usize::MAX);
        let mut accounts = Vec::with_capacity(total);
        let mut activity = Vec::with_capacity(total);
        for index in 0..total {
            // No bank is without an account.
            let bank = if index < count { index } else { draw.weighted(&by_size) };
            let account = Account::draw(&mut draw, bank);
            activity.push(libm::exp(draw.normal(0.0, 1.1)));
            if let (Some(bank), Ok(index)) = (banks.get_mut(bank), u32::try_from(index)) {
                bank.accounts.push(index);
                if let Some(same) = bank.by_flag.get_mut(usize::from(account.flag)) {
                    same.push(index);
                }
                if account.flag < HARD_FLAG {
                    bank.open.push(index);
                }
            }
            accounts.push(account);
        }
        let mut world = Self { banks, accounts, activity: Weights::new(activity) };

        let mut draw = Draw::new(spec.seed, "regulars", 0);
        for index in 0..world.accounts.len() {
            let mut regulars = [0; REGULARS];
            for place in &mut regulars {
                *place = world.counterparty(&mut draw, to_u32(index));
            }
            world.accounts[index].regulars = regulars;
        }
        world
    }

    /// The account of a number, which must be one of this world.
    pub(super) fn account(&self, index: u32) -> &Account {
        &self.accounts[index as usize]
    }

    /// An account by activity.
    pub(super) fn payer(&self, draw: &mut Draw) -> u32 {
        to_u32(draw.weighted(&self.activity))
    }

    /// An account of a bank of the payer's corridors, and not the payer.
    pub(super) fn counterparty(&self, draw: &mut Draw, payer: u32) -> u32 {
        loop {
            let corridors = &self.banks[self.account(payer).bank].corridors;
            let bank = draw.weighted(corridors);
            if let Some(account) = draw.pick(&self.banks[bank].accounts)
                && account != payer
            {
                return account;
            }
        }
    }

    /// An account at the end of one of the rarest corridors of the payer's bank, and not the payer.
    pub(super) fn rare_counterparty(&self, draw: &mut Draw, payer: u32) -> u32 {
        let rarest = &self.banks[self.account(payer).bank].rarest;
        loop {
            let bank = draw.pick(rarest).unwrap_or(0);
            if let Some(account) = draw.pick(&self.banks[bank].accounts)
                && account != payer
            {
                return account;
            }
        }
    }

    /// An account of the same bank, other than `not`, with a flag drawn from `flags`; the same account
    /// for flag 0, and where the bank has no other.
    pub(super) fn flagged(&self, draw: &mut Draw, account: u32, flags: &Weights, not: u32) -> u32 {
        let bank = &self.banks[self.account(account).bank];
        let flag = draw.weighted(flags);
        let same = if flag == 0 { None } else { bank.by_flag.get(flag) };
        let found = same.and_then(|same| draw.pick(same));
        found.filter(|found| *found != not).unwrap_or(account)
    }

    /// An account of the same bank, other than `not`, with a flag below [`HARD_FLAG`]; the same account where
    /// there is none.
    pub(super) fn open(&self, draw: &mut Draw, account: u32, not: u32) -> u32 {
        let found = draw.pick(&self.banks[self.account(account).bank].open);
        found.filter(|found| *found != not).unwrap_or(account)
    }

    /// The account's ten digits.
    pub(super) fn number(index: u32) -> u64 {
        (u64::from(index) * FACTOR + OFFSET) % NUMBERS
    }

    /// The digits of `index` with one of them changed, which no account has.
    pub(super) fn mistyped(&self, draw: &mut Draw, index: u32) -> u64 {
        let right = Self::number(index);
        loop {
            let place = 10u64.pow(to_u32(draw.below(10)));
            let digit = right / place % 10;
            let wrong = (digit + 1 + draw.below(9) as u64) % 10;
            let number = right - digit * place + wrong * place;
            if place_of(number) >= self.accounts.len() as u64 {
                return number;
            }
        }
    }

    /// Banks, as many as there are.
    pub(super) fn bank_count(&self) -> usize {
        self.banks.len()
    }

    /// The table of bank `bank`, in the order of account numbers.
    pub(super) fn table(&self, bank: usize) -> Vec<AccountRow> {
        let accounts = self.banks.get(bank).map_or(&[][..], |bank| &bank.accounts);
        let row = |index: &u32| {
            let account = self.account(*index);
            AccountRow {
                account: account_text(bank, Self::number(*index)),
                name: account.name.text(),
                address: address(account.address),
                flag: account.flag,
            }
        };
        let mut rows: Vec<AccountRow> = accounts.iter().map(row).collect();
        rows.sort_unstable_by(|a, b| a.account.cmp(&b.account));
        rows
    }

    /// The name on an account, or a wrong one.
    pub(super) fn name(&self, draw: &mut Draw, index: u32, wrong: bool) -> String {
        let name = self.account(index).name;
        if wrong { name.other(draw).text() } else { name.text() }
    }
}

/// The place of an account number: the inverse of [`World::number`].
fn place_of(number: u64) -> u64 {
    // FACTOR^(phi - 1) is its inverse; phi(10^10) is 4 x 10^9.
    const INVERSE: u64 = power(FACTOR, 3_999_999_999);
    let shifted = u128::from(number + NUMBERS - OFFSET);
    u64::try_from(shifted * u128::from(INVERSE) % u128::from(NUMBERS)).unwrap_or(u64::MAX)
}

/// `base`^`exponent` modulo 10^10.
const fn power(base: u64, mut exponent: u64) -> u64 {
    let modulus = NUMBERS as u128;
    let (mut square, mut product) = (base as u128 % modulus, 1u128);
    while exponent > 0 {
        if exponent % 2 == 1 {
            product = product * square % modulus;
        }
        square = square * square % modulus;
        exponent /= 2;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below 10^10; const code has no conversion"
    )]
    let product = product as u64;
    product
}

/// A place: accounts and addresses number far below 2^32.
fn to_u32(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// The name of the bank of rank `rank` from 0.
pub(super) fn bank_text(rank: usize) -> String {
    format!("BANK{:02}", rank + 1)
}

/// An account as it stands in tables.
pub(super) fn account_text(bank: usize, number: u64) -> String {
    format!("Q{:02}{number:010}", bank + 1)
}

/// Banks without accounts: the share of receiving bank j in what bank i pays is proportional to
/// w_i w_j exp(N(0, 0.8)).
fn corridors(sizes: &[f64], draw: &mut Draw) -> Vec<Bank> {
    let bank = |_: &f64| {
        // The own weight w_i scales the whole row and so cancels.
        let row: Vec<f64> =
            sizes.iter().map(|size| size * libm::exp(draw.normal(0.0, 0.8))).collect();
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*a].total_cmp(&row[*b]));
        order.truncate(RAREST);
        Bank {
            accounts: Vec::new(),
            by_flag: Default::default(),
            open: Vec::new(),
            corridors: Weights::new(row),
            rarest: order,
        }
    };
    sizes.iter().map(bank).collect()
}

impl Account {
    fn draw(draw: &mut Draw, bank: usize) -> Self {
        let corporate = draw.chance(0.25);
        let mean = if corporate { draw.normal(9.2, 1.1) } else { draw.normal(6.6, 0.9) };
        let deviation = draw.uniform(0.35, 0.95);
        let hour = if corporate { draw.normal(11.0, 1.5) } else { draw.normal(15.0, 3.0) };
        let mut left = draw.unit();
        let mut flag = 0;
        for (number, share) in (1..).zip(FLAG_SHARES) {
            if left < share {
                flag = number;
                break;
            }
            left -= share;
        }
        Self {
            bank,
            flag,
            log_eur: (mean, deviation),
            hour,
            regulars: [0; REGULARS],
            name: Name::draw(draw, corporate),
            address: to_u32(draw.below(STREETS.len() * TOWNS.len() * MOST_HOUSES)),
        }
    }
}

const MOST_HOUSES: usize = 120;

fn address(code: u32) -> String {
    let code = code as usize;
    let (house, rest) = (code % MOST_HOUSES + 1, code / MOST_HOUSES);
    let (street, town) = (STREETS[rest % STREETS.len()], TOWNS[rest / STREETS.len() % TOWNS.len()]);
    format!("{house} {street} {town}")
}

const GIVEN_NAMES: [&str; 40] = [
    "Ada", "Alan", "Amara", "Anton", "Beatriz", "Bruno", "Chiara", "Daniel", "Dorota", "Elif",
    "Emil", "Esther", "Farid", "Freya", "Gustav", "Hana", "Hugo", "Ines", "Ivan", "Jan", "Jasmin",
    "Jonas", "Karin", "Kenji", "Lena", "Luca", "Maja", "Marek", "Mina", "Nadia", "Noah", "Olga",
    "Oskar", "Priya", "Quentin", "Rosa", "Sven", "Tilda", "Victor", "Yuki",
];
const FAMILY_NAMES: [&str; 48] = [
    "Adler",
    "Almeida",
    "Andersson",
    "Bakker",
    "Bauer",
    "Bianchi",
    "Blake",
    "Costa",
    "Dahl",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Fontaine",
    "Garcia",
    "Gruber",
    "Gupta",
    "Hansen",
    "Hughes",
    "Ibrahim",
    "Ito",
    "Jansen",
    "Kaya",
    "Keller",
    "Kowalski",
    "Larsen",
    "Lindgren",
    "Lopez",
    "Mancini",
    "Meyer",
    "Moreau",
    "Nagy",
    "Novak",
    "Okafor",
    "Olsen",
    "Patel",
    "Pereira",
    "Peters",
    "Popescu",
    "Rossi",
    "Sato",
    "Schmidt",
    "Silva",
    "Tanaka",
    "Turner",
    "Vogel",
    "Weber",
    "Wright",
    "Zielinska",
];
const COMPANY_NAMES: [&str; 40] = [
    "Alder", "Amber", "Anchor", "Arrow", "Beacon", "Birch", "Bridge", "Canal", "Cedar", "Cobalt",
    "Copper", "Coral", "Delta", "Falcon", "Fjord", "Forge", "Granite", "Harbour", "Heron", "Iris",
    "Juniper", "Lantern", "Larch", "Linden", "Magnet", "Maple", "Meridian", "Mill", "North",
    "Olive", "Orchard", "Pillar", "Quarry", "River", "Saffron", "Sable", "Summit", "Tidal",
    "Willow", "Zenith",
];
const COMPANY_KINDS: [&str; 24] = [
    "Chemicals",
    "Components",
    "Consulting",
    "Electric",
    "Engineering",
    "Exports",
    "Foods",
    "Freight",
    "Furniture",
    "Glass",
    "Holdings",
    "Imports",
    "Instruments",
    "Logistics",
    "Machines",
    "Media",
    "Metals",
    "Optics",
    "Paper",
    "Shipping",
    "Software",
    "Textiles",
    "Tools",
    "Trading",
];
const STREETS: [&str; 16] = [
    "Abbey Street",
    "Bridge Road",
    "Canal Street",
    "Castle Lane",
    "Church Road",
    "Dock Street",
    "Garden Way",
    "Harbour Street",
    "High Street",
    "Market Square",
    "Mill Lane",
    "Park Avenue",
    "Quay Road",
    "Station Road",
    "Tower Hill",
    "Vine Street",
];
const TOWNS: [&str; 16] = [
    "Aarhus", "Basel", "Bergen", "Cork", "Dresden", "Ghent", "Graz", "Krakow", "Leeds", "Lyon",
    "Malmo", "Osaka", "Porto", "Pune", "Turin", "Utrecht",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_numbers_lead_back_to_their_place() {
        for place in [0, 1, 2, 999, 50_000, u32::MAX] {
            assert_eq!(place_of(World::number(place)), u64::from(place));
        }
    }
}
