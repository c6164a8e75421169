//! The demo as its users run it: a process, its output and its files.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use quorate_client::learn::data::Table;
use serde_json::{Value, json};

fn quorate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_demo_on_awkward_data_survives_its_faults_and_equals_training_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (out, copy) = (folder.path().join("out"), folder.path().join("summary.json"));
    let (out_text, copy_text) = (out.to_str().unwrap(), copy.to_str().unwrap());
    let done = quorate(&[
        "demo", "--check", "--data", "tricky", "--rounds", "12", "--seed", "3", "--out", out_text,
        "--json", copy_text,
    ]);
    let printed = text(&done.stdout);
    assert!(done.status.success(), "{printed}\n{}", text(&done.stderr));
    let fault = ["joins late", "drops out", "returns", "is killed"];
    assert!(fault.iter().all(|fault| printed.contains(fault)), "{printed}");
    let summary = read(&copy);
    assert_eq!(summary, read(&out.join("demo.json")));
    assert_eq!(summary["rounds"], 13);
    assert_eq!(summary["model_hash"], summary["plain_model_hash"]);
    assert!(summary["bytes_up"].as_u64().unwrap() > 0);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains(summary["model_hash"].as_str().unwrap()));

    // The comparison can fail: the same data with another recorded set gives another model.
    let config = out.join("plain.json");
    let plain = || text(&quorate(&["plain", "--config", config.to_str().unwrap()]).stdout);
    assert!(plain().contains(summary["model_hash"].as_str().unwrap()));
    let sets_file = out.join("frozen.json");
    let mut sets = read(&sets_file);
    sets[12]["members"].as_array_mut().unwrap().pop();
    std::fs::write(&sets_file, sets.to_string()).unwrap();
    assert!(plain().starts_with("model hash "));
    assert!(!plain().contains(summary["model_hash"].as_str().unwrap()));
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let foreign = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("own.csv"), "a,b\n1,x\n2,y\n").unwrap();
    let own = folder.path().join("own.csv");
    let own = own.to_str().unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["--parties", "2"], "--parties must be at least 3"),
        (&["--data", "nowhere"], "--data FILE.csv"),
        (&["--data", own], "--target COLUMN"),
        (&["--data", own, "--target", "b"], "too few"),
        (&["--scheme", "rot13"], "ddh-mcfe"),
        (&["--out", foreign], "choose --out"),
    ];
    for (arguments, advice) in cases {
        let mut all = vec!["demo", "--data", "tricky", "--out", out.to_str().unwrap()];
        // The last of a repeated option would be an error: leave out what the case gives.
        for option in arguments.iter().step_by(2) {
            if let Some(place) = all.iter().position(|word| word == option) {
                all.drain(place..place + 2);
            }
        }
        all.extend_from_slice(arguments);
        let done = quorate(&all);
        let said = text(&done.stderr);
        assert!(!done.status.success() && said.contains(advice), "{arguments:?}: {said}");
    }
}

#[test]
fn an_interrupted_demo_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["demo", "--data", "tricky", "--rounds", "1000", "--out"])
        .arg(&out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("run on loopback")));
    let log = std::fs::read_to_string(out.join("aggregator/log.txt")).unwrap();
    let address = log.split("listening on ").nth(1).unwrap().lines().next().unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
    let pid = demo.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(!demo.wait().unwrap().success());
    let mut said = String::new();
    demo.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("interrupted"), "{said}");
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// The first `rows` rows of `nursery`, as a file in `folder`.
fn nursery(folder: &Path, rows: usize) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/nursery.csv.gz");
    let table = Table::read(&source).unwrap();
    let columns = || 0..table.header().len();
    let row = |row| columns().map(|column| table.text(row, column)).collect::<Vec<_>>().join(",");
    let lines: Vec<String> =
        std::iter::once(table.header().join(",")).chain((0..rows).map(row)).collect();
    let file = folder.join("places.csv");
    std::fs::write(&file, lines.join("\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_threshold_demo_opens_the_sums_that_it_simulates() {
    let folder = tempfile::tempdir().unwrap();
    let data = nursery(folder.path(), 1500);
    let (out, copy) = (folder.path().join("out"), folder.path().join("summary.json"));
    let done = quorate(&[
        "demo",
        "--protocol",
        "threshold",
        "--model",
        "id3",
        "--data",
        &data,
        "--target",
        "rank",
        "--parties",
        "4",
        "--rounds",
        "2",
        "--seeds",
        "2",
        "--epsilon",
        "0.25",
        "--scheme",
        "elgamal",
        "--no-sweep",
        "--json",
        copy.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    let printed = text(&done.stdout);
    assert!(done.status.success(), "{printed}\n{}", text(&done.stderr));
    let summary = read(&copy);
    assert_eq!(summary, read(&out.join("demo.json")));
    let real = &summary["real_run"];
    assert_eq!((&real["sums_equal"], &real["difference"]), (&json!(true), &Value::Null));
    assert_eq!(real["model_hash"], real["simulated_model_hash"]);
    assert!(printed.contains(real["model_hash"].as_str().unwrap()), "{printed}");
    assert_eq!(
        (&real["rounds"], &real["holders"], &real["needed"]),
        (&json!(2), &json!(3), &json!(2))
    );
    let round = &real["table"][1];
    assert_eq!((&round["members"], &round["opened_by"][0]), (&json!(4), &json!("authority-a")));
    assert!(round["opened_by"].as_array().unwrap().len() >= 3, "{round}");
    // What the authority's ledger shows is what the rounds were said to cost: at most the epsilon.
    let number = |value: &Value| value.as_f64().unwrap();
    assert!((number(&real["rho_spent"]) - number(&summary["rho"])).abs() < 1e-9);
    let spent = number(&real["epsilon_spent"]);
    assert!(spent <= 0.25 && spent > 0.2499, "{spent}");
    assert_eq!((&summary["h"], &summary["simulated"]), (&json!(2), &json!(true)));
    assert_eq!(
        (&summary["metric_name"], &summary["scheme"]),
        (&json!("macro-F1"), &json!("elgamal"))
    );
    let seeds = summary["seeds"].as_array().unwrap();
    assert_eq!((&seeds[0]["seed"], &seeds[1]["seed"], seeds.len()), (&json!(0), &json!(1), 2));
    let regimes =
        ["metric", "metric_no_privacy", "metric_central_dp", "metric_local_dp", "metric_alone"];
    for regime in regimes {
        let mean = (number(&seeds[0][regime]) + number(&seeds[1][regime])) / 2.0;
        assert!((number(&summary[regime]) - mean).abs() < 1e-12, "{regime}");
        assert!(summary["spread"][regime].is_number() && summary["accuracy"][regime].is_number());
    }
    // Noise moves the model; without it there is one for all seeds.
    assert_ne!(summary["metric"], summary["metric_no_privacy"]);
    assert_eq!(summary["spread"]["metric_no_privacy"], json!(0.0));
    assert_eq!(
        (&summary["sweep_by_epsilon"], &summary["further_real_runs"]),
        (&json!([]), &json!([]))
    );
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("equal those of the simulated run"));
    assert!(out.join("elgamal/party-3/log.txt").is_file());
    assert!(!out.join("elgamal/party-3/store").exists());
}

#[test]
fn a_vertical_demo_survives_its_faults_and_equals_training_on_the_joined_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (out, copy) = (folder.path().join("out"), folder.path().join("summary.json"));
    let compared = folder.path().join("compared.json");
    let scheme =
        json!({ "name": "published", "bytes_per_batch": 123_456_789, "ms_per_batch": 9.5 });
    let other = json!({ "schemes": [scheme], "baseline_bits": 2048, "break_even_width": 77 });
    std::fs::write(&compared, other.to_string()).unwrap();
    let done = quorate(&[
        "demo",
        "--vertical",
        "--data",
        "ionosphere",
        "--epochs",
        "2",
        "--label-epsilon",
        "8",
        "--seeds",
        "2",
        "--fold",
        "1",
        "--compare",
        compared.to_str().unwrap(),
        "--json",
        copy.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    let printed = text(&done.stdout);
    let summary = read(&copy);
    assert!(done.status.success(), "{printed}\n{}", text(&done.stderr));
    assert_eq!(summary, read(&out.join("demo.json")));
    assert_eq!(summary["model_hash"], summary["plain_model_hash"]);
    let hash = summary["model_hash"].as_str().unwrap();
    assert!(printed.contains(hash), "{printed}");
    let faults = summary["faults"].as_array().unwrap();
    let victims: Vec<&str> =
        faults.iter().map(|fault| fault.as_str().unwrap().split(' ').next().unwrap()).collect();
    assert_eq!(victims, ["antenna-c", "aggregator", "antenna-a"]);
    // Rows that not every party has once are left out, and nothing else is.
    let number = |value: &Value| value.as_u64().unwrap();
    let (train, scored) = (number(&summary["train_rows"]), number(&summary["scored_rows"]));
    assert_eq!(number(&summary["common_rows"]), train + scored);
    assert!((320..351).contains(&(train + scored)), "{train} {scored}");
    let size = number(&summary["rows_of_a_batch"]);
    assert_eq!(size, 48);
    let batches = 2 * (train / size) + scored.div_ceil(size);
    assert_eq!(number(&summary["batches"]), batches);
    for row in summary["table"].as_array().unwrap() {
        let uploads = row["uploads"].as_object().unwrap();
        assert_eq!(uploads.keys().collect::<Vec<_>>(), ["antenna-b", "antenna-c"]);
        let (trains, rows) = (row["epoch"] != json!(2), size);
        // Scores and a mask for each of 12 columns; for training these columns, too.
        for own in uploads.values() {
            // Bytes that a fault made a party send again are counted again.
            let messages = number(&own["messages"]);
            assert_eq!(messages, 1 + number(&own["repeated"]));
            let bytes = number(&own["bytes"]) / messages;
            if trains {
                assert_eq!(bytes, 8 * (rows + 12 * rows + 12));
            } else {
                assert!((8 * (1 + 12)..=8 * (rows + 12)).contains(&bytes));
            }
        }
    }
    let contacts = &summary["contacts"];
    assert_eq!((&contacts["elsewhere"], &contacts["listening"]), (&json!(0), &json!(0)));
    assert!(!cfg!(target_os = "linux") || number(&contacts["to_services"]) > 0, "{contacts}");
    let costs = summary["cost_of_label_noise"].as_array().unwrap();
    let epsilons: Vec<Option<f64>> = costs.iter().map(|cost| cost["epsilon"].as_f64()).collect();
    assert_eq!(epsilons, [None, Some(8.0), Some(4.0), Some(1.0)]);
    assert_eq!(summary["metric_without_noise"], costs[0]["metric"]["mean"]);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        page.contains("equal, bit for bit")
            && page.contains("123 MB")
            && page.contains("77 features")
    );
    assert!(!out.join("antenna-b/store").exists());

    // The job's file is one that `quorate job create` takes, and the comparison can fail: another seed
    // of one batch's label noise gives another model, another row is noticed.
    let job = std::fs::read_to_string(out.join("job.toml")).unwrap();
    assert!(job.contains("[[vertical.blocks]]"), "{job}");
    let config = out.join("plain.json");
    let plain = || quorate(&["plain", "--config", config.to_str().unwrap()]);
    assert_eq!(text(&plain().stdout).trim(), format!("model hash {hash}"));
    let file = out.join("antenna-a/replay.json");
    let replay = read(&file);
    let mut changed = replay.clone();
    changed["noise"][1][2] = json!("00".repeat(32));
    std::fs::write(&file, changed.to_string()).unwrap();
    let other = text(&plain().stdout);
    assert!(other.starts_with("model hash ") && !other.contains(hash), "{other}");
    let mut changed = replay.clone();
    changed["rows"].as_array_mut().unwrap().pop();
    std::fs::write(&file, changed.to_string()).unwrap();
    assert!(text(&plain().stderr).contains("not those of a join"));
}

#[test]
fn a_payments_demo_equals_counting_and_scoring_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (out, copy) = (folder.path().join("out"), folder.path().join("summary.json"));
    let (out_text, copy_text) = (out.to_str().unwrap(), copy.to_str().unwrap());
    let done = quorate(&[
        "demo",
        "--protocol",
        "pv4fad",
        "--banks",
        "3",
        "--rows",
        "900",
        "--seed",
        "2",
        "--no-faults",
        "--out",
        out_text,
        "--json",
        copy_text,
    ]);
    let printed = text(&done.stdout);
    assert!(done.status.success(), "{printed}\n{}", text(&done.stderr));
    let summary = read(&copy);
    assert_eq!(summary, read(&out.join("demo.json")));
    assert_eq!((&summary["equal"], &summary["faults"]), (&json!(true), &json!([])));
    let hash = summary["result_hash"].as_str().unwrap();
    assert_eq!(summary["plain_result_hash"], hash);
    let phases: Vec<&str> = summary["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| own["name"].as_str().unwrap())
        .collect();
    assert_eq!(phases, ["key", "joined", "flagged", "summed", "frozen", "trained", "serving"]);
    let real =
        summary["areas"].as_array().unwrap().iter().filter(|own| own["simulated"] == json!(false));
    assert_eq!(real.count(), 1);
    // Everybody's letters come from the network or go to it.
    let sent = |party: &str, way: &str| {
        let rows = summary["wire"].as_array().unwrap();
        rows.iter()
            .filter(|own| own["party"] == party)
            .map(|own| own[way].as_u64().unwrap())
            .sum::<u64>()
    };
    let others = ["authority-a", "bank01", "bank02", "bank03"];
    for (own, theirs) in [("letters_out", "letters_in"), ("bytes_in", "bytes_out")] {
        let all: u64 = others.iter().map(|party| sent(party, theirs)).sum();
        assert!(all > 0 && all == sent("network", own));
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains(hash) && page.contains("epsilon 8") && page.contains("simulated"));

    // The comparison can fail: no row counts, another bank's accounts.
    let config = out.join("plain.json");
    let plain = || text(&quorate(&["plain", "--config", config.to_str().unwrap()]).stdout);
    assert_eq!(plain().trim(), format!("model hash {hash}"));
    let file = out.join("network/replay.json");
    let mut replay = read(&file);
    let before = replay.to_string();
    replay["counted"].as_array_mut().unwrap().iter_mut().for_each(|own| *own = json!(false));
    std::fs::write(&file, replay.to_string()).unwrap();
    assert!(plain().starts_with("model hash ") && !plain().contains(hash));
    std::fs::write(&file, before).unwrap();
    std::fs::copy(out.join("bank02/data.csv"), out.join("bank01/data.csv")).unwrap();
    assert!(plain().starts_with("model hash ") && !plain().contains(hash));
}

#[test]
fn options_of_the_protocols_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let threshold = ["--protocol", "threshold"];
    let alone: &[&str] = &[];
    let vertical = ["--vertical"];
    let payments = ["--protocol", "pv4fad"];
    let cases: [(&[&str], &[&str], &str); 26] = [
        (&payments, &["--banks", "2"], "--banks must be at least 3"),
        (&payments, &["--parties", "4"], "say --banks"),
        (&payments, &["--data", "x.csv"], "generates its payments"),
        (&payments, &["--rows", "10"], "rows"),
        (alone, &["--banks", "4"], "add --protocol pv4fad"),
        (
            alone,
            &["--blocks", "a;b;c"],
            "--blocks does not belong to this protocol: add --vertical",
        ),
        (alone, &["--model", "taylor"], "need --vertical"),
        (&threshold, &["--labels-visible"], "say --vertical in place"),
        (&vertical, &["--rounds", "3"], "say --epochs"),
        (&vertical, &["--scheme", "pad"], "one scheme"),
        (&vertical, &["--epsilon", "1"], "--label-epsilon"),
        (&vertical, &["--model", "mlp"], "leave --vertical out"),
        (&vertical, &["--parties", "2"], "needs at least 3 parties"),
        (&vertical, &["--blocks", "age;sex;nothing"], "names no feature"),
        (&vertical, &["--label-epsilon", "0"], "labels.epsilon"),
        (alone, &["--static-features"], "add --vertical"),
        (alone, &["--model", "id3"], "need --protocol threshold"),
        (alone, &["--epsilon", "1"], "--epsilon does not belong"),
        (alone, &["--no-sweep"], "--no-sweep does not belong"),
        (&threshold, &["--model", "mlp"], "shows id3, svm and nn"),
        (&threshold, &["--check"], "--check does not belong"),
        (&threshold, &["--no-faults"], "--no-faults does not belong"),
        (&threshold, &["--scheme", "pad"], "elgamal and paillier"),
        (&threshold, &["--parties", "2"], "--parties must be at least 3"),
        (&threshold, &["--seeds", "0"], "--seeds must be at least 1"),
        (&threshold, &["--epsilon", "0"], "epsilon must be within"),
    ];
    for (protocol, arguments, advice) in cases {
        let all = [&["demo", "--out", out.to_str().unwrap()], protocol, arguments].concat();
        let done = quorate(&all);
        let said = text(&done.stderr);
        assert!(!done.status.success() && said.contains(advice), "{arguments:?}: {said}");
    }
}
