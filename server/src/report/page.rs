//! The page: summary, plots, participation, tables.

use core::fmt;

use super::svg::{Chart, Part};
use super::{DemoReport, Escaped, PhaseMillis, RoleRow, RoundRow, bytes, millis, number};

/// A report that displays as a whole HTML page.
pub(super) struct Page<'a>(pub(super) &'a DemoReport);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        open(f, &report.title)?;
        write!(
            f,
            "<header><h1>{}</h1><p>{}, scheme <code>{}</code></p></header>",
            Escaped(&report.title),
            Escaped(&report.data),
            Escaped(&report.scheme),
        )?;
        summary(f, report)?;
        plots(f, report)?;
        participation(f, report)?;
        faults(f, &report.faults)?;
        parties(f, report)?;
        rounds(f, report)?;
        f.write_str(CLOSE)
    }
}

/// The beginning of every page: it fetches nothing and runs nothing.
pub(super) fn open(f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
    write!(
        f,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\
         <title>{}</title><style>{}</style></head><body><main>",
        Escaped(title),
        include_str!("style.css"),
    )
}

/// The title and what it is about, over the pages of simulations and real runs together.
pub(super) fn heading(f: &mut fmt::Formatter<'_>, title: &str, data: &str) -> fmt::Result {
    write!(f, "<header><h1>{}</h1><p>{}</p></header>", Escaped(title), Escaped(data))
}

/// What each role learns, and one more sentence of HTML.
pub(super) fn roles(f: &mut fmt::Formatter<'_>, roles: &[RoleRow], note: &str) -> fmt::Result {
    f.write_str(
        "<section><h2>Who learns what</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">role\
         </th><th scope=\"col\">learns</th></tr></thead><tbody>",
    )?;
    for row in roles {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            Escaped(&row.role),
            Escaped(&row.learns)
        )?;
    }
    write!(
        f,
        "</tbody></table></div><p class=\"note\">From the protocol’s card. {note}</p></section>"
    )
}

/// The end of every page.
pub(super) const CLOSE: &str = "</main></body></html>\n";

fn summary(f: &mut fmt::Formatter<'_>, report: &DemoReport) -> fmt::Result {
    let metric = Escaped(&report.metric_name);
    let difference = report.metric - report.pooled_metric;
    let up: u64 = report.rounds.iter().map(|row| row.bytes_up).fold(0, u64::saturating_add);
    write!(
        f,
        "<section aria-label=\"Summary\"><dl class=\"tiles\">\
         <div><dt>{metric}, federated</dt><dd>{}</dd></div>\
         <div><dt>{metric}, pooled data</dt><dd>{}</dd></div>\
         <div><dt>difference</dt><dd>{}</dd></div>\
         <div><dt>attempts</dt><dd>{}</dd></div>\
         <div><dt>sent to the aggregator</dt><dd>{}</dd></div></dl>",
        number(Some(report.metric)),
        number(Some(report.pooled_metric)),
        if difference.is_finite() { format!("{difference:+.4}") } else { "–".to_owned() },
        report.rounds.len(),
        bytes(up),
    )?;
    let model = Escaped(&report.model_hash);
    match &report.plain_model_hash {
        Some(plain) if *plain == report.model_hash => write!(
            f,
            "<p class=\"good\">✓ The final model equals, bit for bit, the one trained by a separate \
             process without encryption: <code>{model}</code></p>"
        )?,
        Some(plain) => write!(
            f,
            "<p class=\"bad\">✗ The final model <code>{model}</code> differs from the one trained \
             by a separate process without encryption: <code>{}</code></p>",
            Escaped(plain)
        )?,
        None => write!(
            f,
            "<p>Final model: <code>{model}</code>; not compared with training in the clear.</p>"
        )?,
    }
    f.write_str("</section>")
}

fn plots(f: &mut fmt::Formatter<'_>, report: &DemoReport) -> fmt::Result {
    let rounds = &report.rounds;
    let labels: Vec<String> = rounds.iter().map(RoundRow::label).collect();
    let events: Vec<String> = rounds.iter().map(|row| row.events.join("; ")).collect();
    let chart = |id, title, description, show| Chart {
        id,
        title,
        description,
        labels: &labels,
        events: &events,
        show,
    };
    f.write_str("<section class=\"plots\" aria-label=\"Plots\"><figure>")?;
    let metrics: Vec<_> = rounds.iter().map(|row| row.metric).collect();
    let title = format!("{} on held-out rows", report.metric_name);
    chart(
        "metric",
        &title,
        course(&report.metric_name, &metrics)
            + &format!(" Pooled data: {}.", number(Some(report.pooled_metric))),
        |value| format!("{value:.3}"),
    )
    .line(f, &metrics, Some((report.pooled_metric, "pooled")))?;
    f.write_str("</figure><figure>")?;
    let losses: Vec<_> = rounds.iter().map(|row| row.loss).collect();
    chart("loss", "Loss on held-out rows", course("Loss", &losses), |value| format!("{value:.3}"))
        .line(f, &losses, None)?;
    f.write_str("</figure><figure>")?;
    let up = rounds.iter().map(|row| row.bytes_up as f64).collect();
    let down = rounds.iter().map(|row| row.bytes_down as f64).collect();
    let traffic =
        [Part { name: "to the aggregator", values: up }, Part { name: "from it", values: down }];
    chart(
        "bytes",
        "Bytes on the wire",
        "Bytes to and from the aggregator in each attempt; the numbers are in the table."
            .to_owned(),
        axis_bytes,
    )
    .bars(f, &traffic)?;
    f.write_str("</figure><figure>")?;
    let phases: Vec<Part> = PhaseMillis::default()
        .phases()
        .iter()
        .enumerate()
        .map(|(i, (name, _))| Part {
            name,
            values: rounds
                .iter()
                .map(|row| row.ms.phases().get(i).map_or(0.0, |(_, value)| *value))
                .collect(),
        })
        .collect();
    chart(
        "time",
        "Milliseconds by phase",
        "Wall-clock milliseconds of each attempt, by phase; the numbers are in the table."
            .to_owned(),
        millis,
    )
    .bars(f, &phases)?;
    f.write_str(
        "</figure></section><p class=\"note\">▼ marks an attempt in which something \
                 happened: point at it, or read the events in the last table.</p>",
    )
}

/// First and last value in words.
fn course(name: &str, values: &[Option<f64>]) -> String {
    let mut known = values.iter().copied().flatten();
    let first = known.next();
    format!("{name} goes from {} to {}.", number(first), number(known.last().or(first)))
}

fn axis_bytes(value: f64) -> String {
    // Axis values are non-negative and far below 2^53.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    bytes(value as u64)
}

/// A party's part in one attempt.
#[derive(Clone, Copy)]
enum Presence {
    In,
    Joined,
    Returned,
    Missing,
    Absent,
}

fn participation(f: &mut fmt::Formatter<'_>, report: &DemoReport) -> fmt::Result {
    f.write_str(
        "<section><h2>Participation</h2><div class=\"scroll\"><table class=\"grid\"><thead><tr>\
         <th scope=\"col\">party</th>",
    )?;
    for row in &report.rounds {
        write!(f, "<th scope=\"col\">{}</th>", Escaped(&row.label()))?;
    }
    f.write_str("</tr></thead><tbody>")?;
    for party in &report.parties {
        write!(f, "<tr><th scope=\"row\"><bdi>{}</bdi></th>", Escaped(&party.name))?;
        let mut before: Option<Presence> = None;
        for row in &report.rounds {
            let now = if row.banks.contains(&party.name) {
                match before {
                    Some(Presence::Missing) => Presence::Returned,
                    Some(Presence::Absent) => Presence::Joined,
                    _ => Presence::In,
                }
            } else if row.missing.contains(&party.name) {
                Presence::Missing
            } else {
                // Once seen, a party that is not invited is missing for the reader's purposes.
                match before {
                    None | Some(Presence::Absent) => Presence::Absent,
                    Some(_) => Presence::Missing,
                }
            };
            before = Some(now);
            let (class, sign, word) = match now {
                Presence::In => ("in", "●", "in the sum"),
                Presence::Joined => ("in", "+", "joined late"),
                Presence::Returned => ("in", "↩", "returned"),
                Presence::Missing => ("out", "✕", "missing"),
                Presence::Absent => ("none", "·", "not yet a member"),
            };
            write!(
                f,
                "<td class=\"{class}\" title=\"{word}\"><span aria-label=\"{word}\" \
                 role=\"img\">{sign}</span></td>"
            )?;
        }
        f.write_str("</tr>")?;
    }
    f.write_str(
        "</tbody></table></div><p class=\"note\">● in the sum, ✕ missing, ↩ returned, + joined \
         late, · not yet a member</p></section>",
    )
}

/// The faults that were injected.
pub(super) fn faults(f: &mut fmt::Formatter<'_>, faults: &[String]) -> fmt::Result {
    f.write_str("<section><h2>Faults</h2>")?;
    if faults.is_empty() {
        return f.write_str("<p>None were injected.</p></section>");
    }
    f.write_str("<ul>")?;
    for fault in faults {
        write!(f, "<li>{}</li>", Escaped(fault))?;
    }
    f.write_str("</ul></section>")
}

/// What was set, as pairs of a name and a value.
pub(super) fn settings(f: &mut fmt::Formatter<'_>, settings: &[(String, String)]) -> fmt::Result {
    f.write_str("<section><h2>Settings</h2><div class=\"scroll\"><table><tbody>")?;
    for (name, value) in settings {
        write!(f, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", Escaped(name), Escaped(value))?;
    }
    f.write_str("</tbody></table></div></section>")
}

fn parties(f: &mut fmt::Formatter<'_>, report: &DemoReport) -> fmt::Result {
    f.write_str(
        "<section><h2>Parties</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">party\
         </th><th scope=\"col\" class=\"n\">training rows</th><th scope=\"col\" class=\"n\">positive\
         </th></tr></thead><tbody>",
    )?;
    for party in &report.parties {
        let positives = match party.positives {
            Some(count) if party.rows > 0 => {
                format!("{count} ({:.1} %)", 100.0 * count as f64 / party.rows as f64)
            }
            Some(count) => count.to_string(),
            None => "–".to_owned(),
        };
        write!(
            f,
            "<tr><th scope=\"row\"><bdi>{}</bdi></th><td class=\"n\">{}</td>\
             <td class=\"n\">{positives}</td></tr>",
            Escaped(&party.name),
            party.rows,
        )?;
    }
    f.write_str("</tbody></table></div></section>")
}

fn rounds(f: &mut fmt::Formatter<'_>, report: &DemoReport) -> fmt::Result {
    write!(
        f,
        "<section><h2>Rounds</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">round</th>\
         <th scope=\"col\">sum</th><th scope=\"col\" class=\"n\">banks</th>\
         <th scope=\"col\" class=\"n\">loss</th><th scope=\"col\" class=\"n\">{}</th>\
         <th scope=\"col\" class=\"n\">up</th><th scope=\"col\" class=\"n\">down</th>\
         <th scope=\"col\" class=\"n\">ms</th>",
        Escaped(&report.metric_name)
    )?;
    for (name, _) in PhaseMillis::default().phases() {
        write!(f, "<th scope=\"col\" class=\"n\">{name}</th>")?;
    }
    f.write_str("<th scope=\"col\">events</th></tr></thead><tbody>")?;
    for row in &report.rounds {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"n\">{}/{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td>",
            Escaped(&row.label()),
            Escaped(&row.purpose),
            row.banks.len(),
            row.invited(),
            number(row.loss),
            number(row.metric),
            bytes(row.bytes_up),
            bytes(row.bytes_down),
            millis(row.ms.total),
        )?;
        for (_, value) in row.ms.phases() {
            write!(f, "<td class=\"n\">{}</td>", millis(value))?;
        }
        write!(f, "<td class=\"events\">{}</td></tr>", Escaped(&row.events.join("; ")))?;
    }
    f.write_str("</tbody></table></div></section>")
}
