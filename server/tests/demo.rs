//! The demo as its users run it: a process, its output and its files.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn quorate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> Value {
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
    let summary = json(&copy);
    assert_eq!(summary, json(&out.join("demo.json")));
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
    let mut sets = json(&sets_file);
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
