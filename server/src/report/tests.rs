//! Escaping, well-formedness, and that the page says what the report says.

use super::*;

/// Text that would break out of an element, an attribute or a terminal line.
const HOSTILE: &str = "a<b>&\"c' </title><script>x()</script>\u{1b}[2J\u{202e}\n\0";

/// Twelve attempts with every kind of row: moments, a missing bank, a retry, a late joiner.
fn sample() -> DemoReport {
    let name = |i: u32| format!("bank {i}");
    let mut rounds = Vec::new();
    for (index, round) in [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10].into_iter().enumerate() {
        let retried = index == 4;
        let retry = index == 5;
        let away = (3..=6).contains(&index);
        let late = index < 3;
        let step = f64::from(round);
        rounds.push(RoundRow {
            round,
            purpose: if round == 0 { "moments" } else { "weights" }.to_owned(),
            attempt: u32::from(retry),
            banks: (1..=5).filter(|i| !(away && *i == 2 || late && *i == 5)).map(name).collect(),
            missing: if away { vec![name(2)] } else { Vec::new() },
            loss: (round > 0 && !retried).then(|| 0.46 + 0.2 / step),
            metric: (round > 0 && !retried).then(|| 0.726 - 0.09 / step),
            bytes_up: 1_310 + 20 * u64::from(round),
            bytes_down: 2_400,
            ms: PhaseMillis {
                train: 120.0,
                encrypt_upload: 14.0,
                freeze: 6.0,
                promise: 9.0,
                key: 8.0,
                open: 2.0,
                total: if retried { 420.0 } else { 190.0 },
            },
            events: match index {
                3 => vec!["bank 2 dropped out".to_owned()],
                4 => vec!["aggregator killed and restarted".to_owned()],
                _ => Vec::new(),
            },
        });
    }
    DemoReport {
        title: "Quorate demo".to_owned(),
        scheme: "pad".to_owned(),
        data: "credit_default, target default, fold 0".to_owned(),
        parties: (1..=5)
            .map(|i| PartyRow {
                name: name(i),
                rows: 3_000 * u64::from(i),
                positives: Some(650 * u64::from(i)),
            })
            .collect(),
        rounds,
        metric_name: "AUC".to_owned(),
        metric: 0.717,
        pooled_metric: 0.7253,
        model_hash: "5f".repeat(32),
        plain_model_hash: Some("5f".repeat(32)),
        faults: vec!["bank 2 drops out in round 3 and returns in round 6".to_owned()],
    }
}

/// The same with hostile text wherever text can stand.
fn hostile() -> DemoReport {
    let mut report = sample();
    let text = || HOSTILE.to_owned();
    report.title = text();
    report.scheme = text();
    report.data = text();
    report.metric_name = text();
    report.model_hash = text();
    report.plain_model_hash = Some(text() + "x");
    report.faults = vec![text()];
    report.parties[0].name = text();
    for row in &mut report.rounds {
        row.purpose = text();
        row.banks[0] = text();
        row.missing.push(text());
        row.events.push(text());
    }
    report
}

/// The names of a page's elements in order, or what is not well formed about it.
fn elements(page: &str) -> Result<Vec<String>, String> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").ok_or("no document type")?;
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    while let Some(start) = rest.find('<') {
        let (text, tail) = rest.split_at(start);
        if text.contains('>') {
            return Err(format!("a stray > in {text:?}"));
        }
        entities(text)?;
        let end = tail.find('>').ok_or("a tag without end")?;
        let (tag, after) = (&tail[1..end], &tail[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop().as_deref() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            continue;
        }
        if tag.matches('"').count() % 2 != 0 || tag.contains('<') {
            return Err(format!("broken attributes in <{tag}>"));
        }
        entities(tag)?;
        let name: String = tag.chars().take_while(char::is_ascii_alphanumeric).collect();
        seen.push(name.clone());
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    if open.is_empty() { Ok(seen) } else { Err(format!("left open: {open:?}")) }
}

fn entities(text: &str) -> Result<(), String> {
    let known = ["amp;", "lt;", "gt;", "quot;", "#39;"];
    match text.split('&').skip(1).find(|tail| !known.iter().any(|entity| tail.starts_with(entity)))
    {
        Some(tail) => Err(format!("a bare & before {tail:?}")),
        None => Ok(()),
    }
}

#[test]
fn a_page_is_well_formed_and_fetches_nothing() {
    let page = render_html(&sample());
    let seen = elements(&page).unwrap();
    assert_eq!(seen.iter().filter(|name| *name == "figure").count(), 4);
    for foreign in ["script", "link", "img", "iframe", "object", "embed", "use", "image"] {
        assert!(!seen.iter().any(|name| name == foreign), "{foreign}");
    }
    for address in ["http:", "https:", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(address), "{address}");
    }
}

#[test]
fn the_checker_sees_broken_pages() {
    for body in ["<p>", "</p>", "<p></b>", "<a b=\"></a>", "a & b<br/>", "x > y<br/>", "<p"] {
        assert!(elements(&format!("<!DOCTYPE html>\n{body}")).is_err(), "{body}");
    }
}

#[test]
fn hostile_text_stays_text() {
    let hostile = render_html(&hostile());
    let seen = elements(&hostile).unwrap();
    assert!(!seen.iter().any(|name| name == "script" || name == "b"));
    assert!(hostile.contains("a&lt;b&gt;&amp;&quot;c&#39; &lt;/title&gt;&lt;script&gt;"));
    for control in ['\u{1b}', '\u{202e}', '\0'] {
        assert!(!hostile.contains(control));
    }
}

#[test]
fn numbers_that_are_none_are_dashes() {
    let mut report = sample();
    report.metric = f64::NAN;
    report.pooled_metric = f64::INFINITY;
    for row in &mut report.rounds {
        row.loss = Some(f64::NAN);
        row.metric = None;
        row.ms.total = f64::NAN;
        row.bytes_up = u64::MAX;
    }
    let page = render_html(&report);
    elements(&page).unwrap();
    assert!(page.contains("No values.") && !page.contains("NaN") && !page.contains("inf<"));
    report.rounds.clear();
    report.parties.clear();
    elements(&render_html(&report)).unwrap();
}

#[test]
fn the_page_tells_equal_from_unequal_models() {
    let mut report = sample();
    assert!(render_html(&report).contains("bit for bit"));
    report.plain_model_hash = Some("60".repeat(32));
    let page = render_html(&report);
    assert!(page.contains("differs from") && !page.contains("bit for bit"));
    report.plain_model_hash = None;
    assert!(render_html(&report).contains("not compared"));
}

#[test]
fn participation_shows_each_part_played() {
    let page = render_html(&sample());
    let count = |word: &str| page.matches(&format!("title=\"{word}\"")).count();
    assert_eq!(count("missing"), 4);
    assert_eq!(count("returned"), 1);
    assert_eq!(count("joined late"), 1);
    assert_eq!(count("not yet a member"), 3);
    assert_eq!(count("in the sum"), 5 * 12 - 9);
}

#[test]
fn a_line_of_the_table_aligns_with_its_header_and_carries_no_control_characters() {
    let header = table_header("AUC");
    let report = sample();
    let mut clean = report.rounds[7].clone();
    clean.events.clear();
    clean.missing.clear();
    assert_eq!(render_table(&clean).chars().count(), header.chars().count());
    assert!(render_table(&report.rounds[5]).starts_with("  4.1  weights     4/5"));
    assert!(render_table(&report.rounds[3]).contains("\n       missing: bank 2\n"));
    for line in render_table(&hostile().rounds[0]).split('\n') {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn bytes_have_three_digits() {
    for (count, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_999, "10.0 kB"),
        (99_960, "100 kB"),
        (999_500, "1.00 MB"),
        (40_000_000, "40.0 MB"),
        (u64::MAX, "18447 PB"),
    ] {
        assert_eq!(bytes(count), text);
    }
}

#[test]
fn time_that_no_phase_accounts_for_is_waiting() {
    let ms = PhaseMillis { train: 3.0, open: 2.0, total: 9.0, ..PhaseMillis::default() };
    assert_eq!(ms.phases().last(), Some(&("waiting", 4.0)));
    let overlapping = PhaseMillis { train: 30.0, total: 9.0, ..PhaseMillis::default() };
    assert_eq!(overlapping.phases().last(), Some(&("waiting", 0.0)));
}

fn spread(mean: f64, deviation: f64) -> Spread {
    Spread { mean, deviation }
}

/// Two curves over three epsilons and one number of parties, and a run of one round.
fn noised() -> ThresholdReport {
    let curve = |name: &str, low: f64| Curve {
        name: name.to_owned(),
        points: [0.1, 1.0, 10.0].map(|x| (x, spread(low + x / 20.0, 0.01))).to_vec(),
    };
    let regime = |name: &str| RegimeRow {
        name: name.to_owned(),
        noise: "sigma² / 8 by each of 10 parties".to_owned(),
        metric: spread(0.65625, 0.0125),
        accuracy: spread(0.8, 0.0),
    };
    let by_parties = Curve { name: "hybrid".to_owned(), points: vec![(10.0, spread(0.5, 0.0))] };
    ThresholdReport {
        title: "Quorate demo: threshold".to_owned(),
        data: "nursery, target rank".to_owned(),
        metric_name: "macro-F1".to_owned(),
        parties: 10,
        seeds: 5,
        settings: vec![("delta".to_owned(), "1e-6".to_owned())],
        regimes: vec![regime("hybrid"), regime("local DP")],
        by_epsilon: vec![curve("hybrid", 0.25), curve("local DP", 0.2)],
        by_parties: vec![by_parties],
        runs: vec![RealRun {
            scheme: "elgamal".to_owned(),
            job: "ab".repeat(32),
            epsilon: 0.5,
            parties: 10,
            holders: 3,
            needed: 2,
            key_calls: 1,
            key_seconds: 1.5,
            seconds: 12.0,
            rounds: 1,
            sums_equal: true,
            difference: None,
            metric: 0.625,
            model_hash: "5f".repeat(32),
            simulated_model_hash: "5f".repeat(32),
            bytes_up: 112_000,
            bytes_down: 14_000,
            bytes_shares: 11_200,
            rho_spent: 0.0045,
            epsilon_spent: 0.4999,
            table: vec![RealRound {
                round: 0,
                values: 175,
                members: 10,
                opened_by: vec!["authority-a".to_owned(), "party-0".to_owned()],
                metric: 0.625,
                bytes_up: 112_000,
                bytes_down: 14_000,
                bytes_shares: 11_200,
                collect_ms: 145,
                promise_ms: 14,
                shares_ms: 193,
                open_ms: 394,
            }],
        }],
    }
}

#[test]
fn a_page_of_noise_is_well_formed_says_what_is_simulated_and_fetches_nothing() {
    let page = render_threshold_html(&noised());
    let seen = elements(&page).unwrap();
    let count = |name: &str| seen.iter().filter(|element| *element == name).count();
    assert_eq!((count("figure"), count("script"), count("link"), count("img")), (2, 0, 0, 0));
    for address in ["http:", "https:", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(address), "{address}");
    }
    assert_eq!(page.matches("<figcaption class=\"note\">simulated; ").count(), 2);
    assert!(page.contains("<td class=\"n\">0.6562 ± 0.0125</td>"));
    assert!(page.contains("with <code>elgamal</code> through the real services"));
    assert!(page.contains("<td class=\"events\">authority-a, party-0</td>"));
    assert!(page.contains("<td class=\"n\">112 kB</td>"));
}

#[test]
fn a_run_with_another_sum_is_marked() {
    let mut report = noised();
    assert!(!render_threshold_html(&report).contains("class=\"bad\""));
    report.runs[0].sums_equal = false;
    report.runs[0].difference = Some("value 3 of round 0 is <another>".to_owned());
    let page = render_threshold_html(&report);
    elements(&page).unwrap();
    assert!(page.contains("class=\"bad\"") && page.contains("is &lt;another&gt;"));
    assert!(!page.contains("class=\"good\""));
}

#[test]
fn hostile_text_and_numbers_that_are_none_stay_outside_of_the_markup() {
    let mut report = noised();
    let text = || HOSTILE.to_owned();
    (report.title, report.data, report.metric_name) = (text(), text(), text());
    report.settings.push((text(), text()));
    report.regimes[0] = RegimeRow {
        name: text(),
        noise: text(),
        metric: spread(f64::NAN, 0.0),
        accuracy: spread(0.0, f64::NAN),
    };
    report.by_epsilon[0].name = text();
    report.by_epsilon[0].points[1].1 = spread(f64::NAN, f64::INFINITY);
    report.by_parties[0].points[0] = (f64::NAN, spread(0.5, 0.0));
    (report.runs[0].scheme, report.runs[0].model_hash) = (text(), text());
    report.runs[0].table[0].opened_by.push(text());
    let page = render_threshold_html(&report);
    let seen = elements(&page).unwrap();
    assert!(!seen.iter().any(|name| name == "script" || name == "b"));
    assert!(!page.contains("NaN\"") && !page.contains("inf") && page.contains("No values."));
    for control in ['\u{1b}', '\u{202e}', '\0'] {
        assert!(!page.contains(control));
    }
    report.by_epsilon.clear();
    report.by_parties.clear();
    report.runs.clear();
    let page = render_threshold_html(&report);
    assert!(!elements(&page).unwrap().iter().any(|name| name == "figure"));
}

/// The drawn plot of these curves.
fn drawn(curves: &[Curve], logarithmic: bool) -> String {
    struct Drawn<'a>(curves::Plot<'a>);
    impl fmt::Display for Drawn<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.draw(f)
        }
    }
    let (title, x_name) = ("macro-F1", "epsilon");
    let plot = curves::Plot { id: "p", title, description: "", x_name, logarithmic, curves };
    Drawn(plot).to_string()
}

/// The values of an attribute in all elements of one kind.
fn attributes(page: &str, element: &str, attribute: &str) -> Vec<f64> {
    let (open, key) = (format!("<{element} "), format!(" {attribute}=\""));
    let tags = page.split(&open).skip(1).filter_map(|rest| rest.split('>').next());
    let values = tags.filter_map(|tag| tag.split(&key).nth(1)?.split('"').next()?.parse().ok());
    values.collect()
}

#[test]
fn curves_lie_where_their_numbers_say() {
    let points = |values: [f64; 3]| {
        [1.0, 10.0, 100.0].into_iter().zip(values.map(|mean| spread(mean, 0.1))).collect()
    };
    let curve = |name: &str, values| Curve { name: name.to_owned(), points: points(values) };
    let curves = [curve("hybrid", [0.1, 0.5, 0.9]), curve("local DP", [0.1, 0.3, 0.895])];
    let plot = drawn(&curves, true);
    // Equal ratios, equal distances; 0 and 1 are the ends of the vertical axis.
    let x = [76.0, 312.0, 548.0];
    assert_eq!(attributes(&plot, "circle", "cx"), [x, x].concat());
    let y = |value: f64| (10.0 * (194.0 - value * 174.0)).round() / 10.0;
    let means = [0.1, 0.5, 0.9, 0.1, 0.3, 0.895].map(y);
    assert_eq!(attributes(&plot, "circle", "cy"), means);
    assert!(plot.contains(&format!("y1=\"{:.1}\" y2=\"{:.1}\"/>", y(0.6), y(0.4))));
    assert!(plot.contains("<title>hybrid, epsilon 10: 0.5000 ± 0.1000</title>"));
    // Names whose curves end together stand apart.
    let names: Vec<&str> = plot.split(" name\"").skip(1).collect();
    let heights: Vec<f64> = names
        .iter()
        .map(|name| name.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(heights.len(), 2);
    assert!(heights[1] - heights[0] >= 12.9, "{heights:?}");

    let linear = drawn(&curves, false);
    let centre = attributes(&linear, "circle", "cx")[1];
    assert_eq!(centre, (10.0f64 * (76.0 + 472.0 * 9.0 / 99.0)).round() / 10.0);
    // Of two numbers that are too close only the first is written.
    let close = Curve {
        name: "a".into(),
        points: vec![(1.0, spread(0.5, 0.0)), (1.01, spread(0.5, 0.0)), (90.0, spread(0.5, 0.0))],
    };
    let plot = drawn(&[close], false);
    assert!(
        plot.contains(">1</text>") && plot.contains(">90</text>") && !plot.contains(">1.01</text>")
    );
    assert_eq!(attributes(&plot, "circle", "cx").len(), 3);
    assert!(!plot.contains("whisker"));
}

/// A vertical demo of three parties and one epoch, with a comparison.
fn vertical() -> VerticalReport {
    let alone = |party: &str, metric| AloneRow {
        party: party.to_owned(),
        columns: 5,
        features: 15,
        metric,
    };
    let row = |name: &str, events: &[&str]| EpochRow {
        name: name.to_owned(),
        batches: 4,
        uploads: 8,
        bytes_up: 400_000,
        bytes_sealed: 80_000,
        ms: 123.0,
        collect_ms: 40.0,
        open_ms: 83.0,
        events: events.iter().map(|&event| event.to_owned()).collect(),
    };
    VerticalReport {
        title: "Quorate demo: vertical".to_owned(),
        data: "credit_default".to_owned(),
        metric_name: "AUC".to_owned(),
        metric: 0.7125,
        epsilon: Some(4.0),
        without_noise: 0.725,
        pooled_metric: Some(0.7281),
        model_hash: "5f".repeat(32),
        plain_model_hash: "5f".repeat(32),
        common_rows: 23_000,
        expected_rows: 23_000,
        alone: vec![alone("lender", Some(0.625)), alone("bureau", None)],
        costs: vec![
            CostRow { epsilon: None, sigma: 0.0, metric: spread(0.725, 0.001) },
            CostRow { epsilon: Some(1.0), sigma: 8.25, metric: spread(0.65, 0.02) },
        ],
        seeds: 5,
        epochs: vec![row("0", &["bureau is killed in batch 2"]), row("scores", &[])],
        ms_per_batch: 123.0,
        traffic: vec![TrafficRow {
            party: "bureau".to_owned(),
            batches: 8,
            uploads: 8,
            repeated: 0,
            bytes: 400_000,
        }],
        contacts: Some((7, 21, 0)),
        roles: vec![RoleRow { role: "aggregator".to_owned(), learns: "who takes part".to_owned() }],
        faults: vec!["bureau is killed in batch 2".to_owned()],
        settings: vec![("epochs".to_owned(), "1".to_owned())],
        comparison: Some(Comparison {
            schemes: vec![SchemeRow {
                name: "published".to_owned(),
                bytes_per_batch: 2_000_000,
                ms_per_batch: 900.0,
            }],
            baseline_bits: 2048,
            break_even_width: Some(40),
        }),
    }
}

#[test]
fn a_vertical_page_is_well_formed_says_what_is_simulated_and_fetches_nothing() {
    let page = render_vertical_html(&vertical());
    let seen = elements(&page).unwrap();
    assert!(!seen.iter().any(|name| ["script", "link", "img"].contains(&name.as_str())));
    for address in ["http:", "https:", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(address), "{address}");
    }
    for said in [
        "<dt>AUC, label noise epsilon 4</dt><dd>0.7125</dd>",
        "<dt>AUC, label noise off, simulated</dt><dd>0.7250</dd>",
        "equal, bit for bit",
        "✓ 23000 rows",
        "<td class=\"n\">100 kB</td><td class=\"n\">20.0 kB</td><td class=\"n\">123</td>",
        "looked at 7 times: 21 connections to services, 0 to others",
        "modulus of 2048 bits",
        "fewer bytes from 40 features",
        "<th scope=\"row\">epsilon 1</th><td class=\"n\">8.25</td><td class=\"n\">0.6500 ± 0.0200</td>",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert!(!page.contains("class=\"bad\""));
}

#[test]
fn what_did_not_hold_in_a_vertical_demo_is_marked() {
    let mut report = vertical();
    report.plain_model_hash = "60".repeat(32);
    report.common_rows -= 1;
    report.contacts = None;
    report.comparison = None;
    report.pooled_metric = None;
    let page = render_vertical_html(&report);
    elements(&page).unwrap();
    assert_eq!(page.matches("class=\"bad\"").count(), 2);
    assert!(page.contains("differ from") && !page.contains("other schemes"));
    assert!(page.contains("does not show the sockets"));
}

#[test]
fn hostile_text_in_a_vertical_report_stays_text() {
    let mut report = vertical();
    let text = || HOSTILE.to_owned();
    (report.title, report.data, report.metric_name) = (text(), text(), text());
    (report.model_hash, report.plain_model_hash) = (text(), text() + "x");
    report.alone[0].party = text();
    report.traffic[0].party = text();
    report.epochs[0].events.push(text());
    report.epochs[0].name = text();
    report.roles[0] = RoleRow { role: text(), learns: text() };
    report.faults.push(text());
    report.settings.push((text(), text()));
    report.comparison.as_mut().unwrap().schemes[0].name = text();
    report.metric = f64::NAN;
    let page = render_vertical_html(&report);
    let seen = elements(&page).unwrap();
    assert!(!seen.iter().any(|name| name == "script" || name == "b"));
    for control in ['\u{1b}', '\u{202e}', '\0'] {
        assert!(!page.contains(control));
    }
    assert!(!page.contains("NaN"));
    for line in report.epochs[0].line().split('\n') {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn a_line_of_an_epoch_aligns_with_its_header() {
    let report = vertical();
    let line = report.epochs[1].line();
    assert_eq!(line.chars().count(), EpochRow::header().chars().count());
    assert!(report.epochs[0].line().ends_with("\n        bureau is killed in batch 2"));
}

#[test]
fn a_comparison_is_read_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("compared.json");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Comparison::read(&file)
    };
    let scheme = "{\"name\":\"a\",\"bytes_per_batch\":5,\"ms_per_batch\":1.5}";
    let whole = |schemes: &str, rest: &str| {
        format!("{{\"schemes\":[{schemes}],\"baseline_bits\":2048,\"break_even_width\":{rest}}}")
    };
    let compared = read(&whole(scheme, "null")).unwrap();
    assert_eq!((compared.schemes[0].bytes_per_batch, compared.break_even_width), (5, None));
    assert_eq!(read(&whole(scheme, "12")).unwrap().break_even_width, Some(12));
    assert_eq!(read(&whole(scheme, "12,\"more\":1")).unwrap().break_even_width, Some(12));
    let nameless = scheme.replace("\"a\"", "\" \"");
    let negative = scheme.replace("1.5", "-1.5");
    for wrong in [
        whole("", "12"),
        whole(&nameless, "12"),
        whole(&negative, "12"),
        whole(&scheme.replace('5', "-5"), "12"),
        "[]".to_owned(),
    ] {
        let error = format!("{:#}", read(&wrong).unwrap_err());
        assert!(error.contains("compared.json"), "{wrong}: {error}");
    }
    assert!(Comparison::read(&folder.path().join("none")).is_err());
}

/// A payments demo of two banks, one of which was lost.
fn paid() -> PaymentsReport {
    let point = |recall: f64, mean: f64| (recall, Spread { mean, deviation: 0.0 });
    let curve = |name: &str| Curve {
        name: name.to_owned(),
        points: vec![point(0.25, 1.0), point(1.0, 0.125)],
    };
    let area =
        |name: &str, area: f64, simulated: bool| AreaRow { name: name.to_owned(), area, simulated };
    PaymentsReport {
        title: "Quorate demo: payments".to_owned(),
        data: "4000 payments".to_owned(),
        areas: vec![area("network alone", 0.25, true), area("with its banks", 0.5, false)],
        together: vec![curve("network alone"), curve("with banks"), curve("pooled")],
        noise: vec![curve("no noise"), curve("epsilon 1")],
        delta: 1e-6,
        result_hash: "50".repeat(32),
        plain_result_hash: "50".repeat(32),
        lost: vec!["bank02".to_owned()],
        phases: vec![PaymentsPhaseRow {
            name: "joined".into(),
            ms: 2500,
            letters: 7,
            bytes: 81_000,
        }],
        wire: vec![WireRow { letters_out: 3, bytes_out: 4000, ..WireRow::of("bank01") }],
        handled: vec![HandledRow {
            party: "bank01".into(),
            message: "FlagAsk".into(),
            count: 2,
            ms: 350,
        }],
        roles: vec![RoleRow { role: "bank".into(), learns: "row ids".into() }],
        faults: vec!["bank02 drops out".to_owned()],
        settings: vec![("trees".to_owned(), "50".to_owned())],
    }
}

#[test]
fn a_payments_page_is_well_formed_says_what_is_simulated_and_marks_what_did_not_hold() {
    let page = render_payments_html(&paid());
    let seen = elements(&page).unwrap();
    assert_eq!(seen.iter().filter(|name| *name == "figure").count(), 2);
    assert!(!seen.iter().any(|name| ["script", "link", "img"].contains(&name.as_str())));
    for said in [
        "<dt>average precision, network alone, simulated</dt><dd>0.2500</dd>",
        "<dt>average precision, with its banks</dt><dd>0.5000</dd>",
        "equals, bit for bit",
        "Left out: <bdi>bank02</bdi>",
        "<th scope=\"row\">joined</th><td class=\"n\">2500</td><td class=\"n\">7</td>\
         <td class=\"n\">81.0 kB</td>",
        "<td>FlagAsk</td><td class=\"n\">2</td><td class=\"n\">350</td>",
        "<td class=\"n\">3</td><td class=\"n\">4.00 kB</td><td class=\"n\">0</td>",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert!(!page.contains("class=\"bad\""));
    let mut report = paid();
    let text = || HOSTILE.to_owned();
    (report.title, report.data, report.result_hash) = (text(), text(), text());
    (report.areas[0].name, report.together[0].name, report.lost) = (text(), text(), vec![text()]);
    (report.wire[0].party, report.handled[0].message) = (text(), text());
    report.areas[1].area = f64::NAN;
    report.roles[0] = RoleRow { role: text(), learns: text() };
    let page = render_payments_html(&report);
    assert!(!elements(&page).unwrap().iter().any(|name| name == "script" || name == "b"));
    assert_eq!(page.matches("class=\"bad\"").count(), 1);
    assert!(!page.contains("NaN") && !page.contains('\u{202e}'));
}
