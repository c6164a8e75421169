use quorate_protocols::policy::{Mechanism, NoiseSpec, Unit};
use quorate_protocols::workload::{BayesSpec, Column, ColumnKind, QueryLimits, TreeSpec};

use super::*;

fn spec() -> serde_json::Value {
    serde_json::json!({
        "title": "totals", "max_parties": 5, "quorum": 3,
        "sum": {"dim": 12, "max_abs": 1000}
    })
}

fn manifest(value: &serde_json::Value) -> Result<Manifest, Refusal> {
    let spec: JobSpec = from_json(value.to_string().as_bytes())?;
    let key = |name: &str, byte: u8| AuthorityKey {
        name: Name::new(name).unwrap(),
        epoch: 0,
        verify: VerifyKey([byte; 32]),
        exchange: ExchangeKey([byte; 32]),
    };
    let authorities = vec![key("b", 2), key("a", 1)];
    spec.into_manifest(Name::new("t").unwrap(), VerifyKey([9; 32]), authorities, [7; 16])
}

#[test]
fn a_short_spec_becomes_a_checked_manifest() {
    let manifest = manifest(&spec()).unwrap();
    assert_eq!(manifest.workload, Workload::Sum { dim: 12, rounds: 1, max_abs: 1000 });
    assert_eq!((manifest.scheme, manifest.ring, manifest.k_min), (1, Ring::Z64, 2));
    assert_eq!(manifest.authorities[0].name.as_str(), "a");
    assert_eq!(manifest.deadlines.grace_ms, 5000);
}

fn privacy(epsilon: f64, delta: f64) -> serde_json::Value {
    serde_json::json!({"epsilon": epsilon, "delta": delta, "clip": 10, "data_set": "d"})
}

#[test]
fn without_a_multiplier_the_least_that_fits_all_rounds_is_taken() {
    let mut value = spec();
    value["sum"]["rounds"] = 10.into();
    value["privacy"] = privacy(2.0, 1e-6);
    let noise = manifest(&value).unwrap().privacy.noise().unwrap().clone();
    assert!(noise.epsilon_of(10) <= 2.0 && noise.epsilon_of(10) > 2.0 - 1e-6);
    let less = NoiseSpec { multiplier: noise.multiplier * (1.0 - 1e-6), ..noise.clone() };
    assert!(less.epsilon_of(10) > 2.0);
    assert_eq!((noise.unit, noise.mechanism), (Unit::Record, Mechanism::Gaussian));
    // One that is given stands, and one that does not fit is refused.
    value["privacy"]["noise_multiplier"] = 50.0.into();
    assert_eq!(manifest(&value).unwrap().privacy.noise().unwrap().multiplier, 50.0);
    value["privacy"]["noise_multiplier"] = 1.0.into();
    assert!(manifest(&value).unwrap_err().detail.contains("over the budget of 2"));
}

#[test]
fn holders_default_to_the_floor_and_t_to_a_majority_over_c() {
    let spec = |holders, threshold, floor, colluders| {
        let spec = ThresholdTable { holders, threshold }.into_spec(floor, colluders);
        (spec.holders, spec.threshold)
    };
    assert_eq!(spec(None, None, 3, 0), (3, 2));
    assert_eq!(spec(None, None, 4, 1), (4, 3));
    assert_eq!(spec(None, None, 6, 4), (6, 5));
    assert_eq!(spec(None, None, 500, 2), (64, 33));
    assert_eq!(spec(Some(5), None, 3, 0), (5, 3));
    assert_eq!(spec(Some(5), Some(2), 3, 1), (5, 2));
}

#[test]
fn a_wrong_setting_is_refused_by_name() {
    type Spoil = fn(&mut serde_json::Value);
    let cases: [(Spoil, &str); 12] = [
        (|s| s["privacy"] = serde_json::json!({"epsilon": 1, "data_set": "d"}), "clip is missing"),
        (
            |s| s["privacy"] = serde_json::json!({"epsilon": 0, "clip": 1, "data_set": "d"}),
            "epsilon",
        ),
        (|s| s["privacy"] = privacy(1e-6, 1e-9), "raise epsilon"),
        (|s| s["threshold"] = serde_json::json!({"holders": 3}), "[threshold]"),
        (|s| s["quorom"] = 3.into(), "quorom"),
        (|s| s["sum"]["dims"] = 3.into(), "dims"),
        (|s| drop(s.as_object_mut().unwrap().remove("sum")), "exactly one"),
        (|s| s["scheme"] = "mife-ref".into(), "ddh-mcfe"),
        (|s| s["ring"] = 48.into(), "48"),
        (|s| s["suite"] = "rc4".into(), "rc4"),
        (|s| s["grace_seconds"] = (-1).into(), "grace_seconds"),
        (|s| s["quorum"] = 6.into(), "max_parties"),
    ];
    for (spoil, word) in cases {
        let mut value = spec();
        spoil(&mut value);
        let refusal = manifest(&value).unwrap_err();
        assert!(refusal.detail.contains(word), "{refusal}");
    }
}

#[test]
fn every_workload_has_a_table() {
    let column = Column {
        name: "c".into(),
        kind: ColumnKind::Category { levels: vec!["x".into(), "y".into()] },
    };
    let schema =
        Schema { columns: vec![column], target: "t".into(), classes: vec!["0".into(), "1".into()] };
    let workloads = [
        Workload::Sum { dim: 12, rounds: 3, max_abs: 1000 },
        Workload::Train(TrainSpec::default_for(schema.clone(), ModelSpec::LOGISTIC)),
        Workload::Train(TrainSpec::steps_for(schema.clone(), ModelSpec::Svm { l2: 0.5 })),
        Workload::Tree(TreeSpec::default_for(schema.clone())),
        Workload::Bayes(BayesSpec::default_for(schema.clone())),
    ];
    for workload in workloads {
        let spec = JobSpec::of_workload("job", 3, workload.clone());
        let manifest = manifest(&serde_json::to_value(spec).unwrap()).unwrap();
        assert_eq!(manifest.workload, workload);
        assert_eq!(manifest.value_bits(0).unwrap(), manifest.shape(0).unwrap().bits);
    }
    let mut two = spec();
    two["tree"] = serde_json::to_value(TreeTable::from(TreeSpec::default_for(schema))).unwrap();
    assert!(manifest(&two).unwrap_err().detail.contains("exactly one"));
}

#[test]
fn a_payments_job_fails_closed() {
    let banks: Vec<Name> = ["b1", "b2", "b3"].map(|name| Name::new(name).unwrap()).into();
    let spec = PvSpec {
        network: Name::new("n").unwrap(),
        banks,
        class_bits: 2,
        trees: 50,
        depth: 6,
        part_rows: 1024,
        rows_per_account: 2,
        max_rows: 1 << 20,
        versions: 1,
        queries: QueryLimits { total: 9, per_window: 9, window_ms: 9, per_account: 9 },
        strict: false,
    };
    let job = JobSpec { quorum: 3, ..JobSpec::of_workload("p", 4, Workload::Payments(spec)) };
    let good = serde_json::to_value(job).unwrap();
    let manifest = |value: &serde_json::Value| {
        let spec: JobSpec = from_json(value.to_string().as_bytes())?;
        let (name, verify) = (Name::new("a").unwrap(), VerifyKey([1; 32]));
        let key = AuthorityKey { name, epoch: 0, verify, exchange: ExchangeKey([1; 32]) };
        spec.into_manifest(Name::new("t").unwrap(), VerifyKey([9; 32]), vec![key], [7; 16])
    };
    let made = manifest(&good).unwrap();
    assert!(made.is_payments() && made.threshold.is_some_and(|own| own.holders == 3));
    type Spoil = fn(&mut serde_json::Value);
    let cases: [(Spoil, &str); 15] = [
        (|s| s["scheme"] = "paillier".into(), "elgamal"),
        (|s| s["scheme"] = "pad".into(), "pv4fad"),
        (|s| s["ring"] = 64.into(), "32-bit"),
        (|s| s["max_parties"] = 5.into(), "one party more"),
        (|s| s["threshold"] = serde_json::json!({"holders": 2}), "one party more"),
        (|s| s["threshold"] = serde_json::json!({"threshold": 4}), "T must be"),
        (|s| s["quorum"] = 4.into(), "floor"),
        (|s| s["colluders"] = 2.into(), "floor"),
        (|s| s["payments"]["banks"] = serde_json::json!(["b2", "b1", "b3"]), "sorted by name"),
        (|s| s["payments"]["network"] = "b1".into(), "none of them the network"),
        (|s| s["payments"]["depth"] = 13.into(), "depth"),
        (|s| s["payments"]["versions"] = 2.into(), "one model version"),
        (|s| s["payments"]["rows_per_account"] = 0.into(), "rows_per_account"),
        (|s| s["payments"]["queries"]["window_ms"] = 0.into(), "window_ms"),
        (|s| s["payments"]["flags"] = 1.into(), "flags"),
    ];
    for (spoil, word) in cases {
        let mut value = good.clone();
        spoil(&mut value);
        let refusal = manifest(&value).unwrap_err();
        assert_eq!(refusal.code, if word == "flags" { Code::Malformed } else { Code::BadManifest });
        assert!(refusal.detail.contains(word), "{refusal} {word}");
    }
    let mut noisy = good;
    noisy["privacy"] = serde_json::json!({"epsilon": 4, "data_set": "d", "mechanism": "laplace"});
    assert!(manifest(&noisy).unwrap_err().detail.contains("Gaussian"));
}

#[test]
fn hex_has_one_spelling() {
    let text = "ab".repeat(32);
    assert_eq!(text.parse::<Hex32>().unwrap().to_string(), text);
    for bad in [text.to_uppercase(), "ab".repeat(31), "zz".repeat(32), String::new()] {
        assert_eq!(bad.parse::<Hex32>().unwrap_err().code, Code::Malformed);
    }
}

#[test]
fn outcomes_and_statuses_read_back() {
    let outcome = Outcome::Failed(Refusal::new(Code::CheckSlot, "slot 0"));
    let json = serde_json::to_string(&JobOutcome::from(&outcome)).unwrap();
    assert_eq!(json, r#"{"status":"failed","code":"CHECK_SLOT","detail":"slot 0"}"#);
    assert_eq!(from_json::<JobOutcome>(json.as_bytes()).unwrap(), (&outcome).into());
}
