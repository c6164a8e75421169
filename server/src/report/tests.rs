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
