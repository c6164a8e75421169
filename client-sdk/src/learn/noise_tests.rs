//! Models of counts and of clipped steps: what parties contribute, and what noise costs.

use std::collections::BTreeMap;

use quorate_crypto::dp::account::sigma_for_zcdp;
use quorate_crypto::dp::encode::scaled_sensitivity;
use quorate_crypto::fixed::from_ring;
use quorate_crypto::keys::{ExchangeKey, VerifyKey};
use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::{PadSuite, Ring};
use quorate_protocols::hybrid_alpha::PROTOCOL_ID;
use quorate_protocols::job::{AuthorityKey, Deadlines, MANIFEST_VERSION, Manifest, Privacy};
use quorate_protocols::model::{ModelState, model_after_all};
use quorate_protocols::payload::{Contribution, read_sum};
use quorate_protocols::policy::noise::{noised, replayable_seed};
use quorate_protocols::policy::{Mechanism, NoiseSpec, Unit};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{
    BayesSpec, Column, ColumnKind, DEFAULT_CODE as CODE, LocalSpec, ModelSpec, Schema, StepSpec,
    TrainSpec, TreeSpec, Workload,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng};

use super::counts::tree;
use super::data::{Dataset, Hints, Table, infer_schema};
use super::metrics::{Fit, fit};
use super::split::hold_out;
use super::sweep::{Draws, Regime, Setting, by_epsilon, by_parties, shared_evenly, spread};
use super::tests::{data_file, toy};
use super::train::contribution;
use super::twin::{FrozenSet, plain_sum, replay};

const JOB: Hash = Hash([9; 32]);

fn toy_data(classes: u32) -> (Table, Schema) {
    let table = toy(300, classes);
    let schema = infer_schema(&table, "the target", &Hints::default()).unwrap();
    (table, schema)
}

fn parties(table: &Table, schema: &Schema, rows: &[usize], count: usize) -> Vec<(Name, Dataset)> {
    let workload = Workload::Bayes(BayesSpec::default_for(schema.clone()));
    shared_evenly(&workload, table, rows, count).unwrap()
}

fn workloads(schema: &Schema) -> Vec<Workload> {
    let mut tree = TreeSpec::default_for(schema.clone());
    (tree.min_rows, tree.depth) = (10, 4);
    let mut workloads =
        vec![Workload::Tree(tree), Workload::Bayes(BayesSpec::default_for(schema.clone()))];
    let models =
        [ModelSpec::LOGISTIC, ModelSpec::Svm { l2: 1e-3 }, ModelSpec::Mlp { hidden: 3, l2: 0.0 }];
    for model in models {
        let mut spec = TrainSpec::steps_for(schema.clone(), model);
        spec.rounds = 3;
        workloads.push(Workload::Train(spec));
    }
    workloads
}

fn manifest(workload: Workload, noise: NoiseSpec, parties: u32) -> Manifest {
    let key = AuthorityKey {
        name: Name::new("a").unwrap(),
        epoch: 0,
        verify: VerifyKey([1; 32]),
        exchange: ExchangeKey([1; 32]),
    };
    let deadlines = Deadlines { collect_ms: 1000, grace_ms: 1000, key_ms: 1000, max_attempts: 2 };
    Manifest {
        version: MANIFEST_VERSION,
        tenant: Name::new("t").unwrap(),
        title: String::new(),
        salt: [3; 16],
        aggregator: VerifyKey([2; 32]),
        authorities: vec![key],
        protocol: PROTOCOL_ID,
        scheme: quorate_crypto::schemes::all()
            .iter()
            .find(|scheme| scheme.info().name == "pad")
            .unwrap()
            .info()
            .id,
        suite: PadSuite::Aes256Ctr,
        ring: Ring::Z64,
        code: CODE,
        max_parties: parties,
        quorum: parties,
        k_min: 2,
        colluders: 1,
        threshold: None,
        privacy: Privacy::Noise(noise),
        verified_sum: false,
        deadlines,
        workload,
    }
}

/// A run through noised plaintexts and the checks of opened sums equals the simulation to the bit.
#[test]
fn a_simulation_with_shares_equals_the_protocols_sums() {
    let (table, schema) = toy_data(3);
    let (train, test) = hold_out(&table, 0).unwrap();
    let data = parties(&table, &schema, &train, 4);
    let test = Dataset::new(&table, &schema, &test).unwrap();
    for workload in workloads(&schema) {
        let mut setting = Setting {
            workload: &workload,
            code: CODE,
            job: JOB,
            parties: &data,
            test: &test,
            epsilon: 2.0,
            delta: 1e-6,
            colluders: 1,
            quorum: 4,
        };
        let manifest = manifest(workload.clone(), setting.noise(Name::new("toy").unwrap()), 4);
        manifest.check().unwrap();
        assert_eq!(manifest.noise_divisor(), setting.shares());
        setting.job = manifest.hash();
        let mut simulated = Vec::new();
        let seed = 5u64.to_le_bytes();
        let last = setting
            .train(Regime::Hybrid, Draws::Shares(&seed), |_, sum| simulated.push(sum.clone()))
            .unwrap();
        let mut state = ModelState::of_job(&manifest);
        for (round, expected) in (0..).zip(&simulated) {
            let payload = manifest.payload(round).unwrap();
            let mut total = vec![0i64; usize::try_from(payload.dim()).unwrap()];
            for (name, rows) in &data {
                let (rows, body) =
                    contribution(&workload, &CODE, &state, rows, name.as_str(), round).unwrap();
                let seed = replayable_seed(&seed, round, name);
                let mut rng = ChaCha20Rng::from_seed(seed);
                let own = Contribution { rows, body };
                let bytes = noised(&manifest, round, own, &mut rng).unwrap();
                let mut words = Vec::new();
                from_ring(&bytes, Ring::Z64, &mut words).unwrap();
                assert_eq!(words[..5], [0; 5]);
                let most = 1i64 << (manifest.value_bits(round).unwrap() - 1);
                assert!(words.iter().all(|word| -most <= *word && *word < most));
                total.iter_mut().zip(&words).for_each(|(sum, word)| *sum += word);
            }
            let bytes: Vec<u8> = total.iter().flat_map(|word| word.to_le_bytes()).collect();
            let rows = workload.max_rows();
            let opened = read_sum(&payload, Ring::Z64, &CODE, rows, 4, &bytes).unwrap();
            assert_eq!(opened, *expected);
            state = state.advance(&workload, round, &opened).unwrap();
        }
        assert_eq!(state, last);
        assert_eq!(model_after_all(&workload, &CODE, &setting.job, &simulated).unwrap(), last);
        // Other seeds, other noise.
        let other = setting.train(Regime::Hybrid, Draws::Shares(&[6]), |_, _| {}).unwrap();
        assert_ne!(other.hash(), last.hash());
        // Shares are the hybrid's alone.
        assert!(setting.train(Regime::Local, Draws::Shares(&seed), |_, _| {}).is_err());
    }
}

/// The twin trains all workloads, and exact sums of one party or of many give one tree.
#[test]
fn exact_runs_replay_and_do_not_depend_on_the_split() {
    let (table, schema) = toy_data(3);
    let rows: Vec<usize> = (0..table.rows()).collect();
    let all = Dataset::new(&table, &schema, &rows).unwrap();
    for workload in workloads(&schema) {
        workload.check().unwrap();
        let run = |data: Vec<(Name, Dataset)>| {
            let members: Vec<String> = data.iter().map(|(name, _)| name.to_string()).collect();
            let sets: Vec<FrozenSet> = (0..workload.rounds())
                .map(|round| FrozenSet { round, attempt: 0, members: members.clone() })
                .collect();
            let data: BTreeMap<String, Dataset> =
                data.into_iter().map(|(name, rows)| (name.to_string(), rows)).collect();
            let state = replay(&workload, &CODE, &JOB, &sets, &data).unwrap();
            let setting = |test| Setting {
                workload: &workload,
                code: CODE,
                job: JOB,
                parties: &[],
                test,
                epsilon: 1.0,
                delta: 1e-6,
                colluders: 0,
                quorum: 2,
            };
            (setting(&all).fit(&state).unwrap(), state)
        };
        let (split_fit, split) = run(parties(&table, &schema, &rows, 5));
        let (fit, pooled) = run(parties(&table, &schema, &rows, 1));
        if !matches!(workload, Workload::Train(_)) {
            assert_eq!((split_fit, &split), (fit, &pooled));
        }
        assert!(fit.accuracy > 0.5, "{fit:?}");
        assert!((fit.accuracy - split_fit.accuracy).abs() < 0.02);
    }
}

/// Pins every bit of the states: a change here changes what old jobs computed.
#[test]
fn golden_hashes_of_counts_and_steps() {
    let golden = [
        "900a913a8b90699c6b8c30d54b289975ebef749a52faf1b6b6beddfc8e35b1e4",
        "3865dcadf9fbfa5a207ce9a8d947d22069b15b2a080c18852b5ffe214aa6a805",
        "8c39db035329e9e696b22270f95a5b5e8e3a44907d50903b1547b9d554f18b88",
        "6aab65a3b659dd3d8aac5ea16e6b7d362b0ce1fecca06df715e2541c726440b0",
        "5968f36a24987ae49fb20cbb70acecdbdd0cd9ee0c121b70ada2f8c61bbf15c6",
    ];
    let (table, schema) = toy_data(3);
    let rows: Vec<usize> = (0..table.rows()).collect();
    let data = parties(&table, &schema, &rows, 2);
    let hash = |workload: &Workload| {
        let mut state = ModelState::initial(workload, &CODE, &JOB);
        for round in 0..workload.rounds() {
            let members = data.iter().map(|(name, _)| name.to_string()).collect();
            let set = FrozenSet { round, attempt: 0, members };
            let datasets =
                data.iter().map(|(name, rows)| (name.to_string(), rows.clone())).collect();
            let sum = plain_sum(workload, &CODE, &state, &set, &datasets).unwrap();
            state = state.advance(workload, round, &sum).unwrap();
        }
        state.hash().to_string()
    };
    let got: Vec<String> = workloads(&schema).iter().map(hash).collect();
    assert_eq!(got, golden);
}

/// ID3 in floating point, by definition.
fn id3(rows: &[(Vec<u32>, u32)], used: &[usize], depth: u32, row: &[u32]) -> u32 {
    let count = |rows: &[&(Vec<u32>, u32)]| {
        let mut counts = [0f64; 3];
        rows.iter().for_each(|(_, label)| counts[*label as usize] += 1.0);
        counts
    };
    let entropy = |rows: &[&(Vec<u32>, u32)]| {
        let total = rows.len() as f64;
        let terms = count(rows).into_iter().filter(|n| *n > 0.0);
        terms.map(|n| -n / total * (n / total).log2()).sum::<f64>()
    };
    let all: Vec<&(Vec<u32>, u32)> = rows.iter().collect();
    let class = |rows: &[&(Vec<u32>, u32)]| {
        let counts = count(rows);
        (0..3)
            .rev()
            .max_by(|a, b| counts[*a].total_cmp(&counts[*b]))
            .map_or(0, |class| u32::try_from(class).unwrap())
    };
    let mut best = (1e-9, None);
    for column in (0..row.len()).filter(|column| !used.contains(column)) {
        let mut groups: BTreeMap<u32, Vec<&(Vec<u32>, u32)>> = BTreeMap::new();
        all.iter().for_each(|row| groups.entry(row.0[column]).or_default().push(row));
        let inside: f64 = groups.values().map(|g| g.len() as f64 * entropy(g)).sum();
        let gain = entropy(&all) - inside / all.len() as f64;
        if gain > best.0 + 1e-9 {
            best = (gain, Some(column));
        }
    }
    let Some(column) = best.1.filter(|_| depth > 0 && rows.len() >= 10) else {
        return class(&all);
    };
    let child: Vec<_> = rows.iter().filter(|r| r.0[column] == row[column]).cloned().collect();
    if child.is_empty() {
        return class(&all);
    }
    let used: Vec<usize> = used.iter().copied().chain([column]).collect();
    id3(&child, &used, depth - 1, row)
}

#[test]
fn a_tree_of_exact_counts_is_id3() {
    let (table, schema) = toy_data(3);
    let rows: Vec<usize> = (0..table.rows()).collect();
    let data = Dataset::new(&table, &schema, &rows).unwrap();
    let workload = workloads(&schema).remove(0);
    let Workload::Tree(spec) = &workload else { unreachable!() };
    let sets: Vec<FrozenSet> = (0..spec.depth)
        .map(|round| FrozenSet { round, attempt: 0, members: vec!["all".to_owned()] })
        .collect();
    let datasets = BTreeMap::from([("all".to_owned(), data.clone())]);
    let state = replay(&workload, &CODE, &JOB, &sets, &datasets).unwrap();
    let values = super::counts::Values::new(&spec.table, &data).unwrap();
    let plain: Vec<(Vec<u32>, u32)> =
        values.rows().map(<[u32]>::to_vec).zip(data.labels.iter().copied()).collect();
    let tree = tree(&state).unwrap();
    assert!(tree.nodes.len() > 30);
    for (row, _) in &plain {
        assert_eq!(tree.class(row), id3(&plain, &[], spec.depth, row), "{row:?}");
    }
}

#[test]
fn one_record_moves_a_contribution_by_the_sensitivity_at_most() {
    let (table, schema) = toy_data(2);
    let rows: Vec<usize> = (0..60).collect();
    let more = Dataset::new(&table, &schema, &rows).unwrap();
    let columns = i64::try_from(schema.columns.len()).unwrap();
    for workload in workloads(&schema) {
        let mut state = ModelState::initial(&workload, &CODE, &JOB);
        for round in 0..workload.rounds() {
            let send = |data: &Dataset| {
                contribution(&workload, &CODE, &state, data, "p", round).unwrap().1
            };
            let with = send(&more);
            for missing in [0, 17, 59] {
                let kept: Vec<usize> = rows.iter().copied().filter(|r| *r != missing).collect();
                let without = send(&Dataset::new(&table, &schema, &kept).unwrap());
                let moved: Vec<i64> = with.iter().zip(&without).map(|(a, b)| a - b).collect();
                let square: i64 = moved.iter().map(|x| x * x).sum();
                match &workload {
                    Workload::Train(spec) => {
                        let steps = spec.steps.unwrap();
                        let most = scaled_sensitivity(spec.params() + 1, steps.shift(), steps.clip);
                        assert!((square as f64).sqrt() <= most);
                        // The clip is reached, within the rounding.
                        assert!((square as f64).sqrt() > 0.1 * most);
                    }
                    Workload::Tree(_) => {
                        let unused = columns - i64::from(round);
                        assert!([0, unused].contains(&square), "{square} {unused}");
                        assert!(round > 0 || square == unused);
                    }
                    _ => assert_eq!(square, columns),
                }
            }
            let sum = quorate_protocols::payload::OpenedSum { rows: 60, body: with };
            state = state.advance(&workload, round, &sum).unwrap();
        }
    }
}

/// A table of random columns and labels, of which every value of the schema may occur.
fn random_table(rng: &mut ChaCha20Rng, rows: usize) -> (Schema, Dataset) {
    let below = |rng: &mut ChaCha20Rng, bound: u32| rng.next_u32() % bound;
    let category = |i: u32, levels: u32| Column {
        name: format!("c{i}"),
        kind: ColumnKind::Category { levels: (0..levels).map(|l| format!("l{l}")).collect() },
    };
    let columns: Vec<Column> = (0..4 + below(rng, 3))
        .map(|i| match below(rng, 3) {
            0 => Column {
                name: format!("n{i}"),
                kind: ColumnKind::Numeric { offset: 0.0, scale_log2: 0 },
            },
            levels => category(i, levels),
        })
        .collect();
    let classes = (0..2 + below(rng, 2)).map(|class| format!("k{class}")).collect::<Vec<_>>();
    let labels = (0..rows).map(|_| below(rng, u32::try_from(classes.len()).unwrap())).collect();
    let (mut numeric, mut levels) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        for column in &columns {
            match &column.kind {
                ColumnKind::Numeric { .. } => {
                    numeric.push(f64::from(below(rng, 2001)) / 1000.0 - 1.0);
                }
                // The last level is "other".
                ColumnKind::Category { levels: known } => {
                    levels.push(below(rng, u32::try_from(known.len()).unwrap() + 1));
                }
            }
        }
    }
    (Schema { columns, target: "t".into(), classes }, Dataset { rows, numeric, levels, labels })
}

/// The sensitivity of a level, the root of the columns that are left, rests on this: in the cells
/// that a party sends for a node, columns that its path has split are zero, and each other column
/// counts every row of the node once, by class.
#[test]
fn columns_that_a_path_has_used_are_zero_in_what_a_party_sends() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let (mut used_cells, mut deepest) = (0, 0);
    for _ in 0..20 {
        let (schema, data) = random_table(&mut rng, 120);
        let mut spec = TreeSpec::default_for(schema.clone());
        (spec.min_rows, spec.table.bins) = (2, 3);
        spec.depth = u32::try_from(schema.columns.len()).unwrap();
        let workload = Workload::Tree(spec.clone());
        workload.check().unwrap();
        let classes = schema.classes.len();
        let widths: Vec<usize> =
            spec.table.widths().map(|width| usize::try_from(width).unwrap()).collect();
        let node_cells = usize::try_from(spec.table.cells()).unwrap();
        let values = super::counts::Values::new(&spec.table, &data).unwrap();
        let mut state = ModelState::initial(&workload, &CODE, &JOB);
        for round in 0..workload.rounds() {
            let (_, body) = contribution(&workload, &CODE, &state, &data, "p", round).unwrap();
            let grown = tree(&state).unwrap();
            assert_eq!(grown.level, round);
            for (index, cells) in grown.frontier.iter().zip(body.chunks_exact(node_cells)) {
                let node = &grown.nodes[*index as usize];
                assert_eq!(node.used.len(), round as usize, "a column per level");
                let mut rows = vec![0; classes];
                for (row, label) in values.rows().zip(&data.labels) {
                    if grown.leaf(row) == *index as usize {
                        rows[*label as usize] += 1;
                    }
                }
                let mut rest = cells;
                for (column, width) in (0u32..).zip(&widths) {
                    let (own, after) = rest.split_at(width * classes);
                    rest = after;
                    let mut counted = vec![0; classes];
                    for counts in own.chunks_exact(classes) {
                        counted.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
                    }
                    if node.used.contains(&column) {
                        assert!(own.iter().all(|cell| *cell == 0), "column {column}: {own:?}");
                        used_cells += own.len();
                    } else {
                        assert_eq!(counted, rows, "column {column}");
                    }
                }
                assert!(rest.is_empty());
                deepest = deepest.max(round);
            }
            let past = &body[grown.frontier.len() * node_cells..];
            assert!(past.iter().all(|cell| *cell == 0), "counts of no node");
            let sum = quorate_protocols::payload::OpenedSum { rows: 120, body };
            state = state.advance(&workload, round, &sum).unwrap();
        }
    }
    assert!(used_cells > 1000 && deepest >= 3, "{used_cells} cells, {deepest} levels");
}

#[test]
fn unclipped_steps_are_gradient_descent() {
    let (table, schema) = toy_data(2);
    let rows: Vec<usize> = (0..50).collect();
    let data = Dataset::new(&table, &schema, &rows).unwrap();
    let mut spec = TrainSpec::steps_for(schema, ModelSpec::Logistic { l2: 0.25 });
    let steps = StepSpec { unit: Unit::Record, clip: 50.0, learning_rate: 0.5, momentum: 0.25 };
    (spec.steps, spec.rounds) = (Some(steps), 3);
    let workload = Workload::Train(spec.clone());
    let net = super::model::Net::new(&spec);
    let mut state = ModelState::initial(&workload, &CODE, &JOB);
    let (mut w, mut v) = (vec![0.0; net.params()], vec![0.0; net.params()]);
    let design = super::features::Design::new(&spec, &state, &data).unwrap();
    for round in 0..3 {
        let (units, body) = contribution(&workload, &CODE, &state, &data, "p", round).unwrap();
        assert_eq!(units, 50);
        let sum = quorate_protocols::payload::OpenedSum { rows: 0, body };
        state = state.advance(&workload, round, &sum).unwrap();
        let mut gradient = vec![0.0; net.params()];
        for index in 0..50 {
            net.add_gradient(&w, &design.row(index), &mut net.scratch(), &mut gradient);
        }
        for (index, ((w, v), g)) in w.iter_mut().zip(&mut v).zip(&gradient).enumerate() {
            let penalty = if index == net.features { 0.0 } else { 0.25 * *w };
            *v = 0.25 * *v + g / 50.0 + penalty;
            *w -= 0.5 * *v;
        }
        let got = super::model::decode(&net, &CODE, &state).unwrap();
        for (got, w) in got.iter().zip(&w) {
            assert!((got - w).abs() < 2e-3, "{got} {w}");
        }
    }
    assert!(w.iter().any(|w| w.abs() > 0.1));
}

#[test]
fn a_party_sends_one_clipped_change_of_weights() {
    let (table, schema) = toy_data(2);
    let mut spec = TrainSpec::steps_for(schema.clone(), ModelSpec::LOGISTIC);
    spec.local = LocalSpec { epochs: 2, batch: 0, learning_rate: 1.0, prox_mu: 0.03 };
    spec.steps = Some(StepSpec { unit: Unit::Party, clip: 0.5, learning_rate: 1.0, momentum: 0.0 });
    spec.rounds = 4;
    let workload = Workload::Train(spec);
    assert_eq!(workload.max_rows(), 1);
    let state = ModelState::initial(&workload, &CODE, &JOB);
    let data = parties(&table, &schema, &(0..300).collect::<Vec<_>>(), 2).remove(0).1;
    let (units, body) = contribution(&workload, &CODE, &state, &data, "p", 0).unwrap();
    assert_eq!(units, 1);
    let noise = NoiseSpec {
        unit: Unit::Party,
        mechanism: Mechanism::Gaussian,
        multiplier: sigma_for_zcdp(8.0, 4, 1e-6) * 1.001,
        clip: 0.5,
        epsilon: 8.0,
        delta: 1e-6,
        data_set: Name::new("toy").unwrap(),
    };
    let manifest = manifest(workload, noise, 4);
    manifest.check().unwrap();
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let twice: Vec<i64> = body.iter().map(|value| 2 * value).collect();
    assert!(noised(&manifest, 0, Contribution { rows: 1, body }, &mut rng).is_ok());
    let error = noised(&manifest, 0, Contribution { rows: 1, body: twice }, &mut rng).unwrap_err();
    assert!(error.to_string().contains("clip"), "{error}");
}

#[test]
fn bayes_learns_from_noisy_counts_as_from_exact_ones() {
    let (_, schema) = toy_data(2);
    let mut spec = BayesSpec::default_for(schema);
    spec.smoothing = 0;
    let state = |params| ModelState {
        moments: None,
        params,
        progress: quorate_protocols::model::Progress::None,
    };
    let cells = usize::try_from(spec.table.cells()).unwrap();
    let mut counts = vec![1; cells];
    // The first value of the first column speaks for class 1.
    (counts[0], counts[1]) = (2, 9);
    let values = vec![0; spec.table.schema.columns.len()];
    let class =
        |counts: Vec<i64>| super::counts::Bayes::new(&spec, &state(counts)).unwrap().class(&values);
    assert_eq!(class(counts.clone()), 1);
    (counts[0], counts[1]) = (9, -2);
    assert_eq!(class(counts.clone()), 0);
    assert!(super::counts::Bayes::new(&spec, &state(counts[1..].to_vec())).is_err());
    assert_eq!(class(vec![0; cells]), 0);
}

#[test]
fn macro_f1_is_the_mean_over_common_classes() {
    // Class 0: 8 of 10 found, 2 said too many; class 1: 8 of 10; class 2 has too few rows.
    let labels: Vec<u32> = [vec![0; 10], vec![1; 10], vec![2; 5]].concat();
    let named: Vec<u32> = [vec![0; 8], vec![1; 2], vec![1; 8], vec![0; 2], vec![1; 5]].concat();
    let expected = Fit { accuracy: 16.0 / 25.0, macro_f1: (16.0 / 20.0 + 16.0 / 25.0) / 2.0 };
    assert_eq!(fit(&named, &labels, 3), expected);
    assert_eq!(fit(&[0, 1], &[0, 1], 2), Fit { accuracy: 1.0, macro_f1: 1.0 });
}

#[test]
fn images_are_pooled_by_their_mean() {
    let names: Vec<String> = (0..16).map(|i| format!("p{i:03}")).collect();
    let pixels: Vec<String> = (0..16).map(|i| i.to_string()).collect();
    let text = format!("id,{},price\nr0,{},3\n", names.join(","), pixels.join(","));
    let table = Table::parse(text.as_bytes()).unwrap();
    let pooled = table.pooled(4, 2).unwrap();
    assert_eq!(pooled.header(), ["q0_0", "q0_1", "q1_0", "q1_1", "id", "price"]);
    let row: Vec<&str> = (0..6).map(|column| pooled.text(0, column)).collect();
    assert_eq!(row, ["2.5", "4.5", "10.5", "12.5", "r0", "3"]);
    assert!(table.pooled(5, 1).is_err());
    assert!(table.pooled(4, 3).is_err());
}

#[test]
fn sweeps_have_a_cell_per_regime_and_seed() {
    let (table, schema) = toy_data(2);
    let workload = Workload::Bayes(BayesSpec::default_for(schema.clone()));
    let (train, test) = hold_out(&table, 0).unwrap();
    let data = parties(&table, &schema, &train, 4);
    let test = Dataset::new(&table, &schema, &test).unwrap();
    let setting = Setting {
        workload: &workload,
        code: CODE,
        job: JOB,
        parties: &data,
        test: &test,
        epsilon: 1.0,
        delta: 1e-6,
        colluders: 1,
        quorum: 4,
    };
    let cells = by_epsilon(&setting, &[0.01, 1000.0], 3).unwrap();
    assert_eq!(cells.len(), 2 * 3 * 5);
    assert!(cells.iter().all(|cell| cell.simulated && cell.parties == 4));
    let exact = cells[0].fit;
    let f1 = |regime, epsilon: f64| {
        let own = cells.iter().filter(|cell| cell.regime == regime && cell.epsilon == epsilon);
        own.map(|cell| cell.fit.macro_f1).sum::<f64>() / 3.0
    };
    assert!(f1(Regime::Central, 1000.0) > exact.macro_f1 - 0.1);
    assert!(f1(Regime::Central, 0.01) < exact.macro_f1 - 0.1);
    let cells = by_parties(&setting, (&table, &train), &[2, 6], 1).unwrap();
    let counts: Vec<usize> = cells.iter().map(|cell| cell.parties).collect();
    assert_eq!(counts, [2, 2, 2, 2, 2, 6, 6, 6, 6, 6]);
    // The same seeds, the same cells.
    let again = by_parties(&setting, (&table, &train), &[2, 6], 1).unwrap();
    assert_eq!(again, cells);
    // h = max(quorum, 2 + c) - c - 1.
    assert_eq!(Setting { colluders: 2, ..setting.clone() }.shares(), 1);
    assert_eq!(Setting { colluders: 0, quorum: 10, ..setting }.shares(), 9);
}

/// Ten parties on nursery at an epsilon of 0.5 in all: the shares cost little against a centre, and
/// much less than noise that protects every party's answer alone.
#[test]
fn the_hybrid_is_near_the_centre_and_far_above_local_noise() {
    let table = Table::read(&data_file("nursery")).unwrap();
    let schema = infer_schema(&table, "rank", &Hints::default()).unwrap();
    let workload = Workload::Tree(TreeSpec::default_for(schema.clone()));
    let (train, test) = hold_out(&table, 0).unwrap();
    let data = parties(&table, &schema, &train, 10);
    let test = Dataset::new(&table, &schema, &test).unwrap();
    let setting = Setting {
        workload: &workload,
        code: CODE,
        job: JOB,
        parties: &data,
        test: &test,
        epsilon: 0.5,
        delta: 1e-6,
        colluders: 1,
        quorum: 10,
    };
    let mean = |regime| {
        let f1: Vec<f64> =
            (0..5).map(|seed| setting.cell(regime, seed).unwrap().fit.macro_f1).collect();
        spread(&f1).0
    };
    let (hybrid, central, local) =
        (mean(Regime::Hybrid), mean(Regime::Central), mean(Regime::Local));
    assert!((hybrid - central).abs() < 0.05, "{hybrid} {central}");
    assert!(hybrid - local > 0.1, "{hybrid} {local}");
}
