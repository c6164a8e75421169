//! The three roles together, honest and not. One key for labels and one for scores serve all tests; each has a
//! holder of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::LazyLock;

use quorate_client::payments::bank::AccountBook;
use quorate_client::payments::record::AccountRow;
use quorate_protocols::pv4fad::Side;
use quorate_protocols::pv4fad::forest::CLASSES;
use quorate_protocols::refusal::{Code, Refusal};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tfhe::core_crypto::prelude::ContiguousEntityContainer as _;
use tfhe::shortint::parameters::v1_8::V1_8_PARAM_MESSAGE_1_CARRY_1_KS_PBS_TUNIFORM_2M128 as OTHER;
use tfhe::shortint::{ClientKey, CompressedServerKey};

use crate::bank::{Bank, BankLimits, PublicKey};
use crate::holder::{EVALUATION_KEY_FILE, KeyHolder, Limits, PUBLIC_KEY_FILE, phase};
use crate::journal::Journal;
use crate::network::{Network, Pending, Query, Row, RowSide};
use crate::parameters::{DIMENSION, KEY_BITS, PAIRS};
use crate::table::{Answers, Table, of_greater, pair};
use crate::wire::{AskedAccount, HEADER, Header, Kind, OPEN_ROW_BYTES, QueryId, VERSION};

const LIMITS: Limits = Limits {
    answers: Answers::Labels,
    bits_in_all: 40,
    bits_per_window: 30,
    window_s: 100,
    network_may_extract_key: false,
};
const OF_SCORES: Limits = Limits { answers: Answers::Scores, ..LIMITS };
const FREE: BankLimits = BankLimits { bits_per_account: u32::MAX, bits_in_all: u64::MAX };

/// Accounts of each class; the payee's name is theirs.
const ACCOUNTS: [&str; CLASSES] = ["A-clean", "A-soft", "A-hard"];

struct Keys {
    folder: TempDir,
    public: Vec<u8>,
    evaluation: Vec<u8>,
    network: Network,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(LIMITS));
static KEYS_OF_SCORES: LazyLock<Keys> = LazyLock::new(|| Keys::new(OF_SCORES));

impl Keys {
    fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        KeyHolder::create(folder.path(), limits).unwrap();
        let read = |file| std::fs::read(folder.path().join(file)).unwrap();
        let (public, evaluation) = (read(PUBLIC_KEY_FILE), read(EVALUATION_KEY_FILE));
        let network = Network::new(&public, &evaluation).unwrap();
        Self { public, evaluation, network, folder }
    }

    fn of(answers: Answers) -> &'static Self {
        match answers {
            Answers::Labels => &KEYS,
            Answers::Scores => &KEYS_OF_SCORES,
        }
    }

    fn public(&self) -> PublicKey {
        PublicKey::from_bytes(&self.public).unwrap()
    }

    /// The secret key, eight bits to a byte.
    fn packed_secret(&self) -> Vec<u8> {
        let stored = std::fs::read(self.folder.path().join("secret.key")).unwrap();
        stored[HEADER + 25..HEADER + 25 + DIMENSION / 8].to_vec()
    }

    /// The secret key, one word for each bit.
    fn secret(&self) -> Vec<u32> {
        let bits = |byte: u8| (0..8).map(move |bit| u32::from(byte >> bit & 1));
        self.packed_secret().into_iter().flat_map(bits).collect()
    }
}

/// Stores the key with other limits and a journal of nothing.
fn store(folder: &Path, limits: Limits) {
    let keys = Keys::of(limits.answers);
    KeyHolder::store(folder, keys.public().id(), limits, &keys.packed_secret()).unwrap();
}

/// A holder of the key who has opened nothing yet, in a folder of its own.
fn holder(folder: &Path, limits: Limits) -> KeyHolder {
    store(folder, limits);
    KeyHolder::open(folder).unwrap()
}

/// An account for each of `flags`.
fn book(flags: [u8; CLASSES]) -> AccountBook {
    let row = |(account, flag): (&&str, u8)| AccountRow {
        account: (*account).to_owned(),
        name: "Ada Bauer".to_owned(),
        address: String::new(),
        flag,
    };
    AccountBook::new(&ACCOUNTS.iter().zip(flags).map(row).collect::<Vec<_>>())
}

/// The flags of [`ACCOUNTS`].
const FLAGS: [u8; CLASSES] = [0, 3, 6];

/// A bank who has answered nothing yet.
fn bank(folder: &Path, answers: Answers, limits: BankLimits) -> Bank {
    Bank::create(folder, &mut rng(99)).unwrap();
    Bank::open(folder, book(FLAGS), &Keys::of(answers).public, limits).unwrap()
}

/// A payment between accounts of these classes, at banks 0 and 1.
fn row(ordering: usize, beneficiary: usize, table: Table) -> Row {
    let side = |bank, class: usize| RowSide {
        bank,
        account: AskedAccount { account: ACCOUNTS[class].to_owned(), name: "ada BAUER".to_owned() },
    };
    Row { table, sides: [side(0, ordering), side(1, beneficiary)] }
}

/// Scores in which no pair is like another, and neither are the two sides.
const SCORES: [u64; PAIRS] = [50, 10, 80, 20, 70, 30, 0, 60, 40];

/// One row for each pair of classes, with tables from `table`.
fn pairs(table: impl Fn(usize) -> Table) -> Vec<Row> {
    let pairs = (0..CLASSES).flat_map(|o| (0..CLASSES).map(move |b| (o, b)));
    pairs.map(|(o, b)| row(o, b, table(pair(o, b)))).collect()
}

fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

/// Asks both banks all there is to ask.
fn ask_banks(query: &mut Query<'_>, answers: Answers) {
    let folder = tempfile::tempdir().unwrap();
    let mut bank = bank(folder.path(), answers, FREE);
    for (number, side, ask) in query.asks().unwrap() {
        let answer = bank.answer(&ask).unwrap();
        query.accept(number, side, &answer).unwrap();
    }
    assert_eq!(query.asks().unwrap().len(), 0);
}

fn query(id: u8, rows: Vec<Row>) -> Query<'static> {
    let network = &Keys::of(rows[0].table.answers()).network;
    Query::new(network, QueryId([id; 16]), rows).unwrap()
}

/// A query of one row of each pair, evaluated.
fn evaluated(id: u8, table: impl Fn(usize) -> Table) -> (Vec<u8>, Pending) {
    let answers = table(0).answers();
    let mut query = query(id, pairs(table));
    ask_banks(&mut query, answers);
    query.evaluate(&mut rng(id)).unwrap()
}

fn code<T>(result: Result<T, Refusal>) -> Code {
    match result {
        Ok(_) => panic!("was not refused"),
        Err(refusal) => refusal.code,
    }
}

fn header_rows(bytes: &[u8]) -> &[u8] {
    &bytes[HEADER..]
}

#[test]
fn labels_and_scores_equal_the_plain_tables_for_every_pair_of_classes() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut of_labels = holder(folders[0].path(), LIMITS);
    let mut of_scores = holder(folders[1].path(), OF_SCORES);
    let (score_table, distinct) = Table::scores(&SCORES);
    assert_eq!(distinct, [0, 10, 20, 30, 40, 50, 60, 70, 80]);

    // A threshold of its own for each row, some that no pair and some that every pair reaches.
    let label_table =
        |pair: usize| Table::labels(&SCORES, [45, 10, 90, 20, 75, 35, 5, 55, 0][pair]);
    let (ask, pending) = evaluated(1, label_table);
    // A key opens what it is for.
    assert_eq!(code(of_scores.answer(1_000, &ask)), Code::WrongLabel);
    let opened = of_labels.answer(1_000, &ask).unwrap();
    let labels: Vec<u8> = pending.finish(&opened).unwrap().into_iter().flatten().collect();
    let expected = [1, 1, 0, 1, 0, 0, 0, 1, 1];
    assert_eq!(labels, expected);
    // What the holder has seen is something else.
    assert_ne!(header_rows(&opened), expected);

    let (ask, pending) = evaluated(2, |_| score_table.clone());
    assert_eq!(code(of_labels.answer(1_000, &ask)), Code::WrongLabel);
    // Nine scores are 36 bits.
    assert_eq!(code(of_scores.answer(1_000, &ask)), Code::RateLimited);
    drop(of_scores);
    let folder = tempfile::tempdir().unwrap();
    let mut of_scores = holder(folder.path(), Limits { bits_per_window: 36, ..OF_SCORES });
    let opened = of_scores.answer(1_000, &ask).unwrap();
    let scores = pending.finish(&opened).unwrap().into_iter().flatten();
    let scores: Vec<u64> = scores.map(|index| distinct[usize::from(index)]).collect();
    assert_eq!(scores, SCORES);
    assert!(header_rows(&opened).iter().any(|masked| *masked > 8));

    // OR: the greater of two classes.
    let of_greater = of_greater(&[5, 6, 7]);
    assert_eq!(of_greater, [5, 6, 7, 6, 6, 7, 7, 7, 7]);
    let soft_or_hard = Table::labels(&of_greater, 6);
    assert_eq!(
        (0..PAIRS).map(|pair| soft_or_hard.answer(pair)).collect::<Vec<_>>(),
        [0, 1, 1, 1, 1, 1, 1, 1, 1]
    );
    assert!(soft_or_hard.depends_on_banks());
    assert!(!Table::labels(&of_greater, 8).depends_on_banks());
}

#[test]
fn what_the_holder_sees_is_masked_flooded_and_blinded() {
    for (answers, id) in [(Answers::Labels, 3), (Answers::Scores, 4)] {
        let table = match answers {
            Answers::Labels => Table::labels(&SCORES, 45),
            Answers::Scores => Table::scores(&SCORES).0,
        };
        let secret = Keys::of(answers).secret();
        let mut query = query(id, pairs(|_| table.clone()));
        ask_banks(&mut query, answers);
        let (ask, _) = query.evaluate(&mut rng(id)).unwrap();
        let (again, _) = query.evaluate(&mut rng(id)).unwrap();
        // The network's draws, once more.
        let mut rng = rng(id);
        let step = 1u64.rotate_right(answers.count().ilog2());
        let mut squares = 0.0;
        for (pair, (row, other)) in header_rows(&ask)
            .chunks_exact(OPEN_ROW_BYTES)
            .zip(header_rows(&again).chunks_exact(OPEN_ROW_BYTES))
            .enumerate()
        {
            let mask = u64::from(rng.next_u32()) % u64::from(answers.count());
            let reach = i128::from(step / 2) - (1 << 56);
            let flood = ((i128::from(rng.next_u64()) * (2 * reach + 1)) >> 64) - reach;
            assert!(flood.abs() <= reach);
            let masked = (u64::from(table.answer(pair)) + mask) % u64::from(answers.count());
            let flood = i64::try_from(flood).unwrap().cast_unsigned();
            let place = masked.wrapping_mul(step).wrapping_add(flood);
            let place = u32::try_from(place >> 32).unwrap();
            let noise = phase(&secret, row).wrapping_sub(place).cast_signed();
            // In units of 2^-32: an eighth of the room that the flood leaves.
            assert!(noise.unsigned_abs() < 1 << 21, "{answers:?} {pair} {noise}");
            squares += f64::from(noise).powi(2);
            // The same flags, masks and floods, yet no word is the same: all are under fresh zeros.
            let same = row.chunks(4).zip(other.chunks(4)).filter(|(a, b)| a == b).count();
            assert!(same < 4, "{same}");
        }
        let deviation = 32.0 + (squares / PAIRS as f64).sqrt().log2();
        // Measured: 2^49.2.
        assert!((47.0..51.0).contains(&deviation), "{answers:?} {deviation}");
    }
}

/// Most words in which the blinding masks of two rows agree, were they one mask times powers of X.
fn words_of_one_mask(ask: &[u8]) -> usize {
    let masks: Vec<Vec<u32>> = header_rows(ask)
        .chunks_exact(OPEN_ROW_BYTES)
        .enumerate()
        .map(|(place, row)| {
            let (words, _) = row.as_chunks();
            let word = |at: usize| u32::from_le_bytes(words[at]);
            // Times X^-place, modulo X^2048 + 1.
            let behind = (place..DIMENSION).map(word);
            behind.chain((0..place).map(|at| word(at).wrapping_neg())).collect()
        })
        .collect();
    let agree = |a: &[u32], b: &[u32]| {
        // Words are rounded, so a sign may cost 1.
        a.iter().zip(b).filter(|(a, b)| a.wrapping_sub(**b).wrapping_add(1) <= 2).count()
    };
    let pairs = (1..masks.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
    pairs.map(|(a, b)| agree(&masks[a], &masks[b])).max().unwrap()
}

#[test]
fn no_two_rows_are_blinded_by_one_mask() {
    // Tables that are 0 for every pair at rows 1, 4 and 6: a look-up of them has no mask of its own.
    let zero = [1, 4, 6];
    let table = |pair: usize| Table::labels(&SCORES, if zero.contains(&pair) { 90 } else { 45 });
    let (ask, _) = evaluated(20, table);
    let words = words_of_one_mask(&ask);
    assert!(words < 4, "{words}");

    // Banks that send lists without a mask, so that no look-up has one.
    let mut trivial = query(21, pairs(|_| Table::labels(&SCORES, 45)));
    let home = tempfile::tempdir().unwrap();
    let mut bank = bank(home.path(), Answers::Labels, FREE);
    for (number, side, ask) in trivial.asks().unwrap() {
        let mut answer = bank.answer(&ask).unwrap();
        answer[HEADER..].fill(0);
        trivial.accept(number, side, &answer).unwrap();
    }
    let (ask, _) = trivial.evaluate(&mut rng(21)).unwrap();
    let words = words_of_one_mask(&ask);
    assert!(words < 4, "{words}");
}

#[test]
fn the_holder_opens_a_query_once_and_within_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = holder(folder.path(), LIMITS);
    assert_eq!(first.limits(), LIMITS);
    // What a holder counts does not depend on what it opens.
    let ask = |id: u8, rows: usize, fill: u8| {
        let mut bytes = open_ask(id, rows);
        bytes.resize(HEADER + rows * OPEN_ROW_BYTES, fill);
        bytes
    };
    let opened = first.answer(1_000, &ask(1, 20, 7)).unwrap();
    assert_eq!(first.answer(1_001, &ask(1, 20, 7)).unwrap(), opened);
    assert_eq!(code(first.answer(1_001, &ask(1, 20, 8))), Code::LabelReuse);
    assert_eq!(code(first.answer(1_001, &ask(1, 19, 7))), Code::LabelReuse);
    assert_eq!(code(first.answer(1_099, &ask(2, 11, 7))), Code::RateLimited);
    // A clock that goes back is not believed.
    assert_eq!(code(first.answer(1, &ask(2, 11, 7))), Code::RateLimited);
    // Nor one that went forth for a question that was refused.
    assert_eq!(code(first.answer(5_000, &ask(2, 21, 7))), Code::BudgetSpent);
    assert_eq!(code(first.answer(1_099, &ask(2, 11, 7))), Code::RateLimited);
    // A second process cannot spend the same budget.
    assert_eq!(
        KeyHolder::open(folder.path()).err().unwrap().kind(),
        std::io::ErrorKind::WouldBlock
    );
    drop(first);

    let mut second = KeyHolder::open(folder.path()).unwrap();
    assert_eq!(second.answer(1_050, &ask(1, 20, 7)).unwrap(), opened);
    assert_eq!(code(second.answer(1_050, &ask(1, 20, 8))), Code::LabelReuse);
    assert_eq!(code(second.answer(1_099, &ask(2, 11, 7))), Code::RateLimited);
    second.answer(1_099, &ask(3, 10, 7)).unwrap();
    second.answer(1_100, &ask(2, 10, 7)).unwrap();
    assert_eq!(code(second.answer(9_999, &ask(4, 1, 7))), Code::BudgetSpent);
    let log: Vec<(u8, u32, u64)> = second
        .log()
        .iter()
        .map(|opening| (opening.query.0[0], opening.rows, opening.at_s))
        .collect();
    assert_eq!(log, [(1, 20, 1_000), (3, 10, 1_099), (2, 10, 1_100)]);

    // Nobody else reads the secret, and no second key replaces it.
    let made = KEYS.folder.path();
    let mode = std::fs::metadata(made.join("secret.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = KeyHolder::create(made, LIMITS).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);

    // A secret without its journal, or with another's, has no budget.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(made.join("secret.key"), elsewhere.path().join("secret.key")).unwrap();
    let refused = || KeyHolder::open(elsewhere.path()).err().unwrap().kind();
    assert_eq!(refused(), std::io::ErrorKind::NotFound);
    Journal::create(&elsewhere.path().join("opened"), &[0; 16]).unwrap();
    assert_eq!(refused(), std::io::ErrorKind::InvalidData);

    // A damaged secret is not used.
    drop(second);
    let path = folder.path().join("secret.key");
    let mut stored = std::fs::read(&path).unwrap();
    stored[HEADER + 100] ^= 1;
    std::fs::write(&path, stored).unwrap();
    assert_eq!(
        KeyHolder::open(folder.path()).err().unwrap().kind(),
        std::io::ErrorKind::InvalidData
    );
}

/// A question to the holder of the key for labels, without its rows.
fn open_ask(id: u8, rows: usize) -> Vec<u8> {
    let key = KEYS.public().id();
    Header::of_query(Kind::OpenAsk, 0, key, QueryId([id; 16]), rows).unwrap().begin(0)
}

#[test]
fn a_budget_of_the_whole_key_must_be_asked_for() {
    let kind = |limits| {
        let folder = tempfile::tempdir().unwrap();
        let created = KeyHolder::create(folder.path(), limits).unwrap_err().kind();
        assert_eq!(created, std::io::ErrorKind::InvalidInput);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        store(folder.path(), limits);
        KeyHolder::open(folder.path()).err().unwrap().kind()
    };
    let whole = Limits { bits_in_all: KEY_BITS, ..LIMITS };
    assert_eq!(kind(whole), std::io::ErrorKind::InvalidData);
    assert_eq!(kind(Limits { window_s: 0, ..LIMITS }), std::io::ErrorKind::InvalidData);
    for limits in [
        Limits { bits_in_all: KEY_BITS - 1, ..LIMITS },
        Limits { network_may_extract_key: true, ..whole },
    ] {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(holder(folder.path(), limits).limits(), limits);
    }
}

#[test]
fn so_many_labels_of_a_deviating_network_are_the_whole_key() {
    // What `KEY_BITS` claims. The bootstrapping key has each bit of the smaller secret key under the larger one, at
    // 2^41: brought to 2^63 it is a label.
    let (switch, bootstrap) = crate::evaluation::parts(&KEYS.evaluation, &KEYS.public()).unwrap();
    let bits = usize::try_from(KEY_BITS).unwrap();
    let mut ask = open_ask(30, bits);
    let bootstrap = bootstrap.decompress_into_lwe_bootstrap_key();
    for bit in bootstrap.iter() {
        // The last of its two rows: mask A, body A S + bit 2^41 + noise, of which the coefficients at 0 matter.
        let row = &bit.as_ref()[2 * DIMENSION..];
        let mask = (0..DIMENSION).map(|at| match at {
            0 => row[0],
            _ => row[DIMENSION - at].wrapping_neg(),
        });
        for word in mask.chain([row[DIMENSION]]) {
            ask.extend(u32::try_from(word.wrapping_shl(22) >> 32).unwrap().to_le_bytes());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        bits_in_all: KEY_BITS,
        bits_per_window: KEY_BITS,
        network_may_extract_key: true,
        ..LIMITS
    };
    let opened = holder(folder.path(), limits).answer(0, &ask).unwrap();
    let smaller = header_rows(&opened);
    assert_eq!(smaller.len(), bits);

    // The key-switching key has each bit of the larger one under the smaller one, at 2^48 or above.
    let switch = switch.decompress_into_lwe_keyswitch_key();
    let larger = switch.iter().map(|bit| {
        let row = &bit.as_ref()[..=bits];
        let mask = row
            .iter()
            .zip(smaller)
            .fold(0u64, |sum, (word, bit)| sum.wrapping_add(word.wrapping_mul(u64::from(*bit))));
        u32::from(row[bits].wrapping_sub(mask).cast_signed().unsigned_abs() > 1 << 47)
    });
    assert_eq!(larger.collect::<Vec<_>>(), KEYS.secret());
}

#[test]
fn a_bank_answers_a_query_once_and_an_account_so_often() {
    let folder = tempfile::tempdir().unwrap();
    let limits = BankLimits { bits_per_account: 2, bits_in_all: 5 };
    let mut first = bank(folder.path(), Answers::Labels, limits);
    let table = Table::labels(&SCORES, 45);
    let ask = |id: u8, classes: &[usize]| -> Vec<u8> {
        let rows = classes.iter().map(|class| row(*class, 0, table.clone())).collect();
        query(id, rows).asks().unwrap().remove(0).2
    };
    let answer = first.answer(&ask(1, &[0, 1])).unwrap();
    // Encrypted anew, not counted anew.
    for _ in 0..3 {
        let again = first.answer(&ask(1, &[0, 1])).unwrap();
        assert_eq!(again.len(), answer.len());
        assert_ne!(again, answer);
    }
    assert_eq!(code(first.answer(&ask(1, &[0, 2]))), Code::LabelReuse);
    assert_eq!(code(first.answer(&ask(2, &[0, 2, 0]))), Code::BudgetSpent);
    drop(first);
    // The book is another now: an old question must not get new flags, uncounted.
    let open = |limits| Bank::open(folder.path(), book([7, 7, 7]), &KEYS.public, limits);
    let mut second = open(limits).unwrap();
    assert_eq!(code(second.answer(&ask(1, &[0, 1]))), Code::LabelReuse);
    assert_eq!(code(second.answer(&ask(1, &[0, 2]))), Code::LabelReuse);
    assert_eq!(code(second.answer(&ask(2, &[0, 2, 0]))), Code::BudgetSpent);
    second.answer(&ask(2, &[2, 0])).unwrap();
    // In all: one more, not two.
    assert_eq!(code(second.answer(&ask(3, &[1, 2]))), Code::BudgetSpent);
    second.answer(&ask(4, &[1])).unwrap();
    assert_eq!(code(second.answer(&ask(5, &[2]))), Code::BudgetSpent);
    drop(second);

    // A bank's limits stay over keys; an answer under a key for scores counts four.
    let scores = |id: u8| {
        let query = query(id, vec![row(2, 0, Table::scores(&SCORES).0)]);
        query.asks().unwrap().remove(0).2
    };
    let mut third = Bank::open(
        folder.path(),
        book(FLAGS),
        &KEYS_OF_SCORES.public,
        BankLimits { bits_per_account: 5, bits_in_all: 9 },
    )
    .unwrap();
    third.answer(&scores(6)).unwrap();
    assert_eq!(code(third.answer(&scores(7))), Code::BudgetSpent);
    drop(third);
    let free = BankLimits { bits_per_account: 6, bits_in_all: 10 };
    let mut fourth = open(free).unwrap();
    fourth.answer(&ask(8, &[2])).unwrap();
    assert_eq!(code(fourth.answer(&ask(9, &[1]))), Code::BudgetSpent);
    drop(fourth);

    // Its user alone reads its files, and tags are keyed: another bank's journal of the same question differs.
    let other = tempfile::tempdir().unwrap();
    Bank::create(other.path(), &mut rng(98)).unwrap();
    let mut fifth = Bank::open(other.path(), book(FLAGS), &KEYS.public, limits).unwrap();
    fifth.answer(&ask(1, &[0, 1])).unwrap();
    drop(fifth);
    let journal = |folder: &TempDir| std::fs::read(folder.path().join("answered")).unwrap();
    // Behind name, query, side and bits.
    let tags = 20 + 32 + 12 + 18;
    assert_ne!(journal(&folder)[tags..tags + 32], journal(&other)[tags..tags + 32]);
    for file in ["answered", "tag.key"] {
        let mode = std::fs::metadata(other.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Neither file lacks the other, nor is it another's.
    let again = Bank::create(folder.path(), &mut rng(98)).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    std::fs::copy(other.path().join("tag.key"), folder.path().join("tag.key")).unwrap();
    assert_eq!(code(open(limits)), Code::Unavailable);
    std::fs::remove_file(folder.path().join("tag.key")).unwrap();
    assert_eq!(code(open(limits)), Code::Unavailable);
    std::fs::remove_file(other.path().join("answered")).unwrap();
    let lost = Bank::open(other.path(), book(FLAGS), &KEYS.public, limits);
    assert_eq!(code(lost), Code::Unavailable);
}

#[test]
fn a_bank_spoils_its_own_rows_only_and_the_holder_sees_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut holder = holder(folder.path(), LIMITS);
    let home = tempfile::tempdir().unwrap();
    let mut bank = bank(home.path(), Answers::Labels, FREE);
    let label = |pair: usize| Table::labels(&SCORES, [45, 10, 90, 20, 75, 35, 5, 55, 0][pair]);
    let expected = [1, 1, 0, 1, 0, 0, 0, 1, 1];

    // The ordering bank's third ciphertext: any word, half a turn around the torus, and so on.
    let mut draws = rng(9);
    let mut bodies = query(5, pairs(label));
    for (number, side, ask) in bodies.asks().unwrap() {
        let mut answer = bank.answer(&ask).unwrap();
        if side == Side::Ordering {
            let third = HEADER + 8 * (DIMENSION + 2);
            draws.fill_bytes(&mut answer[third..third + 8]);
        }
        bodies.accept(number, side, &answer).unwrap();
    }
    let (ask, pending) = bodies.evaluate(&mut draws).unwrap();
    let opened = holder.answer(0, &ask).unwrap();
    let labels = pending.finish(&opened).unwrap();
    for (place, expected) in expected.into_iter().enumerate().filter(|(place, _)| *place != 2) {
        assert_eq!(labels[place], Some(expected), "{place}");
    }
    assert!(labels[2].is_some());

    // No mask at all, neither bank's: a look-up in the clear, still blinded, masked and opened.
    let mut trivial = query(6, pairs(label));
    for (number, side, ask) in trivial.asks().unwrap() {
        let mut answer = bank.answer(&ask).unwrap();
        answer[HEADER..].fill(0);
        trivial.accept(number, side, &answer).unwrap();
    }
    let (ask, pending) = trivial.evaluate(&mut draws).unwrap();
    assert!(header_rows(&ask).chunks_exact(4).filter(|word| *word == [0; 4]).count() < 4);
    let opened = holder.answer(0, &ask).unwrap();
    let labels: Vec<u8> = pending.finish(&opened).unwrap().into_iter().flatten().collect();
    // All are clean at both sides.
    let clean: Vec<u8> = (0..PAIRS).map(|row| label(row).answer(0)).collect();
    assert_eq!(labels, clean);
}

#[test]
fn rows_of_a_bank_that_does_not_answer_stay_without_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut holder = holder(folder.path(), LIMITS);
    let home = tempfile::tempdir().unwrap();
    let mut bank = bank(home.path(), Answers::Labels, FREE);
    let table = || Table::labels(&SCORES, 45);
    let mut rows = vec![row(0, 2, table()), row(2, 0, table()), row(2, 1, table())];
    rows[1].sides[1].bank = 7;
    let mut query = query(8, rows);
    assert_eq!(code(query.evaluate(&mut rng(8))), Code::SetTooSmall);
    let asks = query.asks().unwrap();
    let asked: Vec<(u32, Side)> = asks.iter().map(|(bank, side, _)| (*bank, *side)).collect();
    assert_eq!(asked, [(0, Side::Ordering), (1, Side::Beneficiary), (7, Side::Beneficiary)]);
    for (number, side, ask) in asks.into_iter().take(2) {
        let answer = bank.answer(&ask).unwrap();
        // Not what another was asked.
        assert_eq!(code(query.accept(5, side, &answer)), Code::UnknownParty);
        let other = if side == Side::Ordering { Side::Beneficiary } else { Side::Ordering };
        assert_eq!(code(query.accept(number, other, &answer)), Code::WrongLabel);
        query.accept(number, side, &answer).unwrap();
        // The first answer stands.
        query.accept(number, side, &answer).unwrap();
        let again = bank.answer(&ask).unwrap();
        assert_eq!(code(query.accept(number, side, &again)), Code::Duplicate);
    }
    let (ask, pending) = query.evaluate(&mut rng(8)).unwrap();
    let labels = pending.finish(&holder.answer(0, &ask).unwrap()).unwrap();
    assert_eq!(labels, [Some(1), None, Some(1)]);
}

/// Every message of a query under way, and what reads it.
struct Messages {
    ask_bank: Vec<u8>,
    flags: Vec<u8>,
    ask_holder: Vec<u8>,
    opened: Vec<u8>,
    pending: Pending,
}

fn messages(home: &Path) -> Messages {
    let mut bank = bank(home, Answers::Labels, FREE);
    let mut query = query(11, pairs(|_| Table::labels(&SCORES, 45)));
    let mut asks = query.asks().unwrap();
    let mut flags = Vec::new();
    for (number, side, ask) in &asks {
        flags = bank.answer(ask).unwrap();
        query.accept(*number, *side, &flags).unwrap();
    }
    let (ask_holder, pending) = query.evaluate(&mut rng(11)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let opened = holder(folder.path(), LIMITS).answer(0, &ask_holder).unwrap();
    Messages { ask_bank: asks.remove(1).2, flags, ask_holder, opened, pending }
}

#[test]
fn hostile_bytes_are_refused_without_a_panic() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Messages { ask_bank, flags, ask_holder, opened, pending } = messages(home.path());
    let other_home = tempfile::tempdir().unwrap();
    let mut bank = bank(other_home.path(), Answers::Labels, FREE);
    let mut holder = holder(folder.path(), LIMITS);
    let fresh = || query(11, pairs(|_| Table::labels(&SCORES, 45)));
    type Reader<'a> = Box<dyn FnMut(&[u8]) -> Result<(), Refusal> + 'a>;
    let readers: [(&str, &[u8], Reader<'_>); 6] = [
        ("public key", &KEYS.public, Box::new(|bytes| PublicKey::from_bytes(bytes).map(drop))),
        // Beyond its header the evaluation key has a test of its own: it is large.
        (
            "evaluation key",
            &KEYS.evaluation[..HEADER],
            Box::new(|bytes| {
                let key = KEYS.public().id();
                let (_, payload) = Header::parse(bytes, Kind::EvaluationKey, Some(key))?;
                crate::wire::exact(payload, 0)
            }),
        ),
        ("question to a bank", &ask_bank, Box::new(|bytes| bank.answer(bytes).map(drop))),
        ("flags", &flags, Box::new(|bytes| fresh().accept(1, Side::Beneficiary, bytes))),
        (
            "question to the holder",
            &ask_holder,
            Box::new(|bytes| holder.answer(0, bytes).map(drop)),
        ),
        ("opening", &opened, Box::new(|bytes| pending.finish(bytes).map(drop))),
    ];
    let mut draws = rng(12);
    for (what, whole, mut read) in readers {
        read(whole).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        // Other parameters, another version, another key.
        let with = |place: usize, value: u8| {
            let mut bytes = whole.to_vec();
            bytes[place] = value;
            bytes
        };
        assert_eq!(code(read(&with(5, 2))), Code::UnsupportedVersion, "{what}");
        assert_eq!(code(read(&with(3, VERSION + 1))), Code::UnsupportedVersion, "{what}");
        assert_eq!(code(read(&with(8, whole[8] ^ 1))), Code::WrongLabel, "{what}");
        // Any bit of the header; of a query only what makes a valid other question may pass.
        for bit in 0..8 * HEADER {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let query_bit = what.starts_with("question") && (192..320).contains(&bit);
            let side_bit = what == "question to a bank" && bit == 48;
            assert!(read(&bytes).is_err() || query_bit || side_bit, "{what}: bit {bit}");
        }
        // Any length but its own.
        let lengths = (0..=HEADER).chain(
            (0..64).map(|_| usize::try_from(draws.next_u64() % whole.len() as u64).unwrap()),
        );
        for length in lengths.filter(|length| *length < whole.len()) {
            assert!(read(&whole[..length]).is_err(), "{what}: {length} bytes");
        }
        assert_eq!(code(read(&[whole, &[0]].concat())), Code::WrongLength, "{what}");
        // Noise, alone and behind a sound header.
        for round in 0..64u64 {
            let mut bytes = vec![0; usize::try_from(draws.next_u64() % 300).unwrap()];
            draws.fill_bytes(&mut bytes);
            assert!(read(&bytes).is_err(), "{what}");
            let mut bytes = whole.to_vec();
            let start = if round % 2 == 0 { HEADER } else { 40 };
            draws.fill_bytes(&mut bytes[start..]);
            let _ = read(&bytes);
        }
    }
}

#[test]
fn evaluation_keys_that_are_damaged_or_of_other_parameters_are_refused() {
    let whole = &KEYS.evaluation;
    assert_eq!(whole.len(), 44 + 16 + 8 * 918 * 2 * 2048 + 16 + 8 * 2048 * 4);
    let refused = |bytes: &[u8]| code(Network::new(&KEYS.public, bytes));
    let mut damaged = whole.clone();
    let mut draws = rng(13);
    for _ in 0..4 {
        let place =
            HEADER + usize::try_from(draws.next_u64() % (whole.len() - HEADER) as u64).unwrap();
        damaged[place] ^= 1;
        assert_eq!(refused(&damaged), Code::WrongLabel, "{place}");
        damaged[place] ^= 1;
    }
    damaged[5] = 2;
    assert_eq!(refused(&damaged), Code::UnsupportedVersion);
    assert_eq!(refused(&whole[..whole.len() - 1]), Code::WrongLength);
    assert_eq!(refused(&[whole, &[0][..]].concat()), Code::WrongLength);

    // Another key's, sound but for the name that it was given.
    let mut other = KEYS_OF_SCORES.evaluation.clone();
    other[8..24].copy_from_slice(&KEYS.public().id().0);
    assert_eq!(refused(&other), Code::WrongLabel);

    // A key of other parameters is not written, either.
    let other = CompressedServerKey::new(&ClientKey::new(OTHER));
    let error = crate::evaluation::payload(other).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn queries_out_of_bounds_are_refused() {
    let new = |rows| Query::new(&KEYS.network, QueryId([1; 16]), rows).map(drop);
    let table = || Table::labels(&SCORES, 45);
    assert_eq!(code(new(Vec::new())), Code::WrongLength);
    assert_eq!(code(new((0..1025).map(|_| row(0, 0, table())).collect())), Code::WrongLength);
    let mixed = vec![row(0, 0, table()), row(0, 0, Table::scores(&SCORES).0)];
    assert_eq!(code(new(mixed)), Code::WrongState);
    assert_eq!(code(new(vec![row(0, 0, Table::scores(&SCORES).0)])), Code::WrongState);
    let mut long = row(0, 0, table());
    long.sides[0].account.account = "x".repeat(257);
    let query = Query::new(&KEYS.network, QueryId([1; 16]), vec![long]).unwrap();
    assert_eq!(code(query.asks()), Code::WrongLength);
}

quorate_crypto::assert_secret!(KeyHolder, Bank);
