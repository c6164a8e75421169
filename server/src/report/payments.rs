//! The report of a payments demo: a forest of a payment network and its banks.

use core::fmt;

use serde::Serialize;

use super::curves::Plot;
use super::page::{CLOSE, faults, heading, open, roles, settings};
use super::{Curve, Escaped, RoleRow, bytes, millis, number};

/// All that the report of a payments demo shows.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentsReport {
    /// Headline.
    pub title: String,
    /// Data set and what was scored.
    pub data: String,
    /// Areas under precision-recall curves over the scored payments.
    pub areas: Vec<AreaRow>,
    /// Precision over recall: the network alone, with its banks through the services, pooled.
    pub together: Vec<Curve>,
    /// The same with all banks and noise of several budgets: simulated.
    pub noise: Vec<Curve>,
    /// delta of these budgets.
    pub delta: f64,
    /// Hash of counts and scores as the network opened them.
    pub result_hash: String,
    /// The same of the separate process in the clear.
    pub plain_result_hash: String,
    /// Banks that were left out.
    pub lost: Vec<String>,
    /// Phases of the job.
    pub phases: Vec<PaymentsPhaseRow>,
    /// Letters of each role.
    pub wire: Vec<WireRow>,
    /// What each party handled.
    pub handled: Vec<HandledRow>,
    /// What each role learns, as the protocol's card says.
    pub roles: Vec<RoleRow>,
    /// The faults that were injected, one sentence each.
    pub faults: Vec<String>,
    /// What was set, as pairs of a name and a value.
    pub settings: Vec<(String, String)>,
}

/// How well one regime finds anomalies.
#[derive(Clone, Debug, Serialize)]
pub struct AreaRow {
    /// Name.
    pub name: String,
    /// Area under its precision-recall curve.
    pub area: f64,
    /// Whether it is the twin in the clear, not the services.
    pub simulated: bool,
}

/// A phase of the job.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentsPhaseRow {
    /// Name.
    pub name: String,
    /// Wall-clock milliseconds.
    pub ms: u64,
    /// Letters that the aggregator took meanwhile.
    pub letters: usize,
    /// Bytes of these.
    pub bytes: u64,
}

/// Letters of one role.
#[derive(Clone, Debug, Serialize)]
pub struct WireRow {
    /// Name.
    pub party: String,
    /// Letters that it sent.
    pub letters_out: u64,
    /// Bytes of these.
    pub bytes_out: u64,
    /// Letters that were sent to it.
    pub letters_in: u64,
    /// Bytes of these.
    pub bytes_in: u64,
}

impl WireRow {
    /// A role without letters.
    #[must_use]
    pub fn of(party: &str) -> Self {
        let party = party.to_owned();
        Self { party, letters_out: 0, bytes_out: 0, letters_in: 0, bytes_in: 0 }
    }
}

/// Letters of one kind that one party handled.
#[derive(Clone, Debug, Serialize)]
pub struct HandledRow {
    /// Name.
    pub party: String,
    /// Kind of the message.
    pub message: String,
    /// Letters.
    pub count: u64,
    /// Wall-clock milliseconds of all of them, storing included.
    pub ms: u64,
}

/// The report as one self-contained HTML page.
#[must_use]
pub fn render_payments_html(report: &PaymentsReport) -> String {
    Page(report).to_string()
}

struct Page<'a>(&'a PaymentsReport);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        open(f, &report.title)?;
        heading(f, &report.title, &report.data)?;
        summary(f, report)?;
        plots(f, report)?;
        areas(f, report)?;
        phases(f, report)?;
        wire(f, report)?;
        handled(f, report)?;
        faults(f, &report.faults)?;
        roles(
            f,
            &report.roles,
            "In this demo the network also wrote down its random ids, so that the run \
             could be repeated: <code>replay.json</code>.",
        )?;
        settings(f, &report.settings)?;
        f.write_str(CLOSE)
    }
}

fn summary(f: &mut fmt::Formatter<'_>, report: &PaymentsReport) -> fmt::Result {
    let ms: u64 = report.phases.iter().map(|row| row.ms).sum();
    let sent: u64 = report.phases.iter().map(|row| row.bytes).sum();
    f.write_str("<section aria-label=\"Summary\"><dl class=\"tiles\">")?;
    for row in &report.areas {
        let simulated = if row.simulated { ", simulated" } else { "" };
        write!(
            f,
            "<div><dt>average precision, {}{simulated}</dt><dd>{}</dd></div>",
            Escaped(&row.name),
            number(Some(row.area))
        )?;
    }
    write!(
        f,
        "<div><dt>time</dt><dd>{:.0} s</dd></div><div><dt>letters</dt><dd>{}</dd></div></dl>",
        ms as f64 / 1000.0,
        bytes(sent),
    )?;
    let (result, plain) = (Escaped(&report.result_hash), Escaped(&report.plain_result_hash));
    if report.result_hash == report.plain_result_hash {
        write!(
            f,
            "<p class=\"good\">✓ Every count and every score that the network opened equals, bit for bit, \
             that of a separate process in the clear: <code>{result}</code></p>"
        )?;
    } else {
        write!(
            f,
            "<p class=\"bad\">✗ Counts or scores <code>{result}</code> differ from those of a separate \
             process in the clear: <code>{plain}</code></p>"
        )?;
    }
    if !report.lost.is_empty() {
        write!(
            f,
            "<p>Left out: <bdi>{}</bdi>. Payments of such a bank do not count and are not scored.</p>",
            Escaped(&report.lost.join(", "))
        )?;
    }
    f.write_str("</section>")
}

fn plots(f: &mut fmt::Formatter<'_>, report: &PaymentsReport) -> fmt::Result {
    f.write_str("<section class=\"plots\" aria-label=\"Plots\">")?;
    let plots = [
        (
            "together",
            "Precision over recall",
            "The network alone and pooled data are simulated; with banks ran through the services.",
            &report.together,
        ),
        (
            "noise",
            "Precision over recall with noise, simulated",
            "The twin in the clear, with all banks, without noise and under several budgets.",
            &report.noise,
        ),
    ];
    for (id, title, description, curves) in plots {
        f.write_str("<figure>")?;
        let x_name = "recall";
        Plot { id, title, description, x_name, logarithmic: false, curves }.draw(f)?;
        f.write_str("</figure>")?;
    }
    f.write_str("</section>")
}

fn areas(f: &mut fmt::Formatter<'_>, report: &PaymentsReport) -> fmt::Result {
    f.write_str(
        "<section><h2>What is found</h2><div class=\"scroll\"><table><thead><tr>\
         <th scope=\"col\">regime</th><th scope=\"col\" class=\"n\">average precision</th>\
         <th scope=\"col\">how</th></tr></thead><tbody>",
    )?;
    for row in &report.areas {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td>{}</td></tr>",
            Escaped(&row.name),
            number(Some(row.area)),
            if row.simulated { "simulated" } else { "through the services" },
        )?;
    }
    write!(
        f,
        "</tbody></table></div><p class=\"note\">Over the scored payments. epsilon is that of one account at \
         delta {:e}, which counts in at most 2 payments. Rows are few here: the figures of one seed vary \
         much.</p></section>",
        report.delta
    )
}

fn phases(f: &mut fmt::Formatter<'_>, report: &PaymentsReport) -> fmt::Result {
    f.write_str(
        "<section><h2>Phases</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">phase</th>\
         <th scope=\"col\" class=\"n\">ms</th><th scope=\"col\" class=\"n\">letters</th>\
         <th scope=\"col\" class=\"n\">bytes</th></tr></thead><tbody>",
    )?;
    for row in &report.phases {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            Escaped(&row.name),
            millis(row.ms as f64),
            row.letters,
            bytes(row.bytes),
        )?;
    }
    f.write_str(
        "</tbody></table></div><p class=\"note\">Each phase lasts until the next begins: from <em>joined</em> \
         on bits are collected, from <em>flagged</em> on the authority checks and adds up, from \
         <em>summed</em> on noise is collected; <em>trained</em> and <em>serving</em> are queries. Processes \
         are on one machine.</p></section>",
    )
}

fn wire(f: &mut fmt::Formatter<'_>, report: &PaymentsReport) -> fmt::Result {
    f.write_str(
        "<section><h2>Letters</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">role</th>\
         <th scope=\"col\" class=\"n\">sent</th><th scope=\"col\" class=\"n\">bytes</th>\
         <th scope=\"col\" class=\"n\">received</th><th scope=\"col\" class=\"n\">bytes</th></tr></thead>\
         <tbody>",
    )?;
    for row in &report.wire {
        write!(
            f,
            "<tr><th scope=\"row\"><bdi>{}</bdi></th><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&row.party),
            row.letters_out,
            bytes(row.bytes_out),
            row.letters_in,
            bytes(row.bytes_in),
        )?;
    }
    f.write_str(
        "</tbody></table></div><p class=\"note\">Counted in the aggregator’s log; all of them are sealed to \
         their receiver.</p></section>",
    )
}

fn handled(f: &mut fmt::Formatter<'_>, report: &PaymentsReport) -> fmt::Result {
    f.write_str(
        "<section><h2>Work</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">party</th>\
         <th scope=\"col\">message</th><th scope=\"col\" class=\"n\">letters</th>\
         <th scope=\"col\" class=\"n\">ms</th></tr></thead><tbody>",
    )?;
    for row in &report.handled {
        write!(
            f,
            "<tr><th scope=\"row\"><bdi>{}</bdi></th><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            Escaped(&row.party),
            Escaped(&row.message),
            row.count,
            millis(row.ms as f64),
        )?;
    }
    f.write_str(
        "</tbody></table></div><p class=\"note\">Wall-clock time from a letter to its stored answer, as each \
         party reports; parties work at the same time.</p></section>",
    )
}
