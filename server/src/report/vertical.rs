//! The report of a vertical demo: one model over columns of several parties.

use core::fmt;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::page::{CLOSE, faults, heading, open, roles, settings};
use super::{Clean, Escaped, Spread, bytes, millis, number};

/// All that the report of a vertical demo shows.
#[derive(Clone, Debug, Serialize)]
pub struct VerticalReport {
    /// Headline.
    pub title: String,
    /// Data set, target, fold, model and parties.
    pub data: String,
    /// What `metric` is, for instance `AUC`.
    pub metric_name: String,
    /// The model that was trained through the services, on the rows that the label holder had no label
    /// of.
    pub metric: f64,
    /// epsilon of its label noise; `None` without.
    pub epsilon: Option<f64>,
    /// The same without label noise: simulated, a mean over the seeds.
    pub without_noise: f64,
    /// Logistic regression on pooled rows.
    pub pooled_metric: Option<f64>,
    /// SHA-256 over all parties' weights, in hexadecimal.
    pub model_hash: String,
    /// The same of the separate process that joined the files and trained in the clear.
    pub plain_model_hash: String,
    /// Rows that the alignment found.
    pub common_rows: u64,
    /// Rows that a plain join of the files finds.
    pub expected_rows: u64,
    /// Every party by itself: simulated, without noise, as if each had the labels.
    pub alone: Vec<AloneRow>,
    /// What label noise costs: simulated.
    pub costs: Vec<CostRow>,
    /// Seeds behind every mean.
    pub seeds: u64,
    /// The epochs, the scoring of rows without a label last.
    pub epochs: Vec<EpochRow>,
    /// Median of the wall-clock milliseconds of a batch.
    pub ms_per_batch: f64,
    /// Uploads of every passive party.
    pub traffic: Vec<TrafficRow>,
    /// How often parties' sockets were looked at; their connections to services; their connections to
    /// others and sockets that listened. `None` where the system does not show sockets.
    pub contacts: Option<(u64, u64, u64)>,
    /// What each role learns, as the protocol's card says.
    pub roles: Vec<RoleRow>,
    /// The faults that were injected, one sentence each.
    pub faults: Vec<String>,
    /// What was set, as pairs of a name and a value.
    pub settings: Vec<(String, String)>,
    /// Measurements of other schemes.
    pub comparison: Option<Comparison>,
}

/// One party by itself.
#[derive(Clone, Debug, Serialize)]
pub struct AloneRow {
    /// Name.
    pub party: String,
    /// Columns it holds.
    pub columns: usize,
    /// Features of these.
    pub features: u64,
    /// Metric of a model on them alone.
    pub metric: Option<f64>,
}

/// What hiding labels costs.
#[derive(Clone, Debug, Serialize)]
pub struct CostRow {
    /// epsilon of one label over the job; `None` without noise.
    pub epsilon: Option<f64>,
    /// Standard deviation of the noise on one residual.
    pub sigma: f64,
    /// The metric.
    pub metric: Spread,
}

/// The batches of one epoch.
#[derive(Clone, Debug, Serialize)]
pub struct EpochRow {
    /// Epoch, from 0, or `scores`.
    pub name: String,
    /// Batches.
    pub batches: usize,
    /// Messages that passive parties uploaded for them.
    pub uploads: u64,
    /// Bytes of these.
    pub bytes_up: u64,
    /// Bytes of sealed keys, requests and gradients that the aggregator passed on.
    pub bytes_sealed: u64,
    /// Median milliseconds of a batch.
    pub ms: f64,
    /// Median milliseconds until all uploads were there.
    pub collect_ms: f64,
    /// Median milliseconds from then to its end.
    pub open_ms: f64,
    /// Faults and other happenings, one sentence each.
    pub events: Vec<String>,
}

/// What a passive party uploaded.
#[derive(Clone, Debug, Serialize)]
pub struct TrafficRow {
    /// Name.
    pub party: String,
    /// Batches of the job.
    pub batches: usize,
    /// Messages for them.
    pub uploads: u64,
    /// Those among them that were sent again, byte for byte, after a fault.
    pub repeated: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What a role learns.
#[derive(Clone, Debug, Serialize)]
pub struct RoleRow {
    /// The role.
    pub role: String,
    /// What it learns.
    pub learns: String,
}

/// One batch under other schemes, as a tool outside the demo measured it.
///
/// Other fields of the file, which tell more, are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The schemes.
    pub schemes: Vec<SchemeRow>,
    /// Bits of the baseline's modulus.
    pub baseline_bits: u32,
    /// Features of a passive party from which the baseline sends fewer bytes; `None` if it never does.
    pub break_even_width: Option<u64>,
}

/// One scheme of a [`Comparison`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchemeRow {
    /// Name.
    pub name: String,
    /// Bytes of one batch, of all parties.
    pub bytes_per_batch: u64,
    /// Milliseconds of one batch.
    pub ms_per_batch: f64,
}

/// Most bytes of a file with a [`Comparison`].
const MAX_COMPARISON: u64 = 1 << 20;

impl Comparison {
    /// Reads a file of JSON.
    ///
    /// # Errors
    /// When it cannot be read, lacks a field, or has a value without sense.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let of = || format!("--compare {}", path.display());
        let length = std::fs::metadata(path).with_context(of)?.len();
        ensure!(length <= MAX_COMPARISON, "{}: over {MAX_COMPARISON} bytes", of());
        let read: Self =
            serde_json::from_slice(&std::fs::read(path).with_context(of)?).with_context(of)?;
        ensure!(!read.schemes.is_empty(), "{}: it has no schemes", of());
        for scheme in &read.schemes {
            let sound = scheme.ms_per_batch.is_finite()
                && scheme.ms_per_batch >= 0.0
                && !scheme.name.trim().is_empty();
            ensure!(sound, "{}: {:?} has no name or no time", of(), scheme.name);
        }
        Ok(read)
    }
}

impl EpochRow {
    /// The heading over [`EpochRow::line`].
    #[must_use]
    pub fn header() -> String {
        format!(
            "{:>6}  {:>7} {:>7}  {:>9} {:>9}  {:>8} {:>8} {:>8}",
            "epoch", "batches", "uploads", "up/batch", "sealed", "ms/batch", "collect", "open"
        )
    }

    /// The epoch as a line of text, bytes and milliseconds per batch, with a further indented line for
    /// each event.
    #[must_use]
    pub fn line(&self) -> String {
        let mut text = format!(
            "{:>6}  {:>7} {:>7}  {:>9} {:>9}  {:>8.0} {:>8.0} {:>8.0}",
            Clean(&self.name).to_string(),
            self.batches,
            self.uploads,
            bytes(self.per_batch(self.bytes_up)),
            bytes(self.per_batch(self.bytes_sealed)),
            self.ms,
            self.collect_ms,
            self.open_ms,
        );
        for event in &self.events {
            text.push_str(&format!("\n        {}", Clean(event)));
        }
        text
    }

    fn per_batch(&self, bytes: u64) -> u64 {
        bytes.checked_div(self.batches as u64).unwrap_or(0)
    }
}

/// The report as one self-contained HTML page.
#[must_use]
pub fn render_vertical_html(report: &VerticalReport) -> String {
    Page(report).to_string()
}

struct Page<'a>(&'a VerticalReport);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        open(f, &report.title)?;
        heading(f, &report.title, &report.data)?;
        summary(f, report)?;
        together(f, report)?;
        costs(f, report)?;
        epochs(f, report)?;
        messages(f, report)?;
        comparison(f, report)?;
        faults(f, &report.faults)?;
        roles(
            f,
            &report.roles,
            "In this demo parties also wrote down their seeds, so that the run could be \
             repeated: <code>replay.json</code>.",
        )?;
        settings(f, &report.settings)?;
        f.write_str(CLOSE)
    }
}

fn noise(epsilon: Option<f64>) -> String {
    epsilon.map_or_else(|| "off".to_owned(), |epsilon| format!("epsilon {epsilon}"))
}

fn summary(f: &mut fmt::Formatter<'_>, report: &VerticalReport) -> fmt::Result {
    let metric = Escaped(&report.metric_name);
    let up: u64 = report.epochs.iter().map(|row| row.bytes_up).sum();
    write!(
        f,
        "<section aria-label=\"Summary\"><dl class=\"tiles\">\
         <div><dt>{metric}, label noise {}</dt><dd>{}</dd></div>\
         <div><dt>{metric}, label noise off, simulated</dt><dd>{}</dd></div>\
         <div><dt>{metric}, pooled rows</dt><dd>{}</dd></div>\
         <div><dt>ms per batch</dt><dd>{}</dd></div>\
         <div><dt>uploaded by passive parties</dt><dd>{}</dd></div></dl>",
        noise(report.epsilon),
        number(Some(report.metric)),
        number(Some(report.without_noise)),
        number(report.pooled_metric),
        millis(report.ms_per_batch),
        bytes(up),
    )?;
    let (model, plain) = (Escaped(&report.model_hash), Escaped(&report.plain_model_hash));
    if report.model_hash == report.plain_model_hash {
        write!(
            f,
            "<p class=\"good\">✓ The weights of all parties equal, bit for bit, those of a separate \
             process that joined the files and trained in the clear with the same seeds: \
             <code>{model}</code></p>"
        )?;
    } else {
        write!(
            f,
            "<p class=\"bad\">✗ The weights <code>{model}</code> differ from those of a separate process \
             that joined the files and trained in the clear: <code>{plain}</code></p>"
        )?;
    }
    let (class, sign) = match report.common_rows == report.expected_rows {
        true => ("good", "✓"),
        false => ("bad", "✗"),
    };
    write!(
        f,
        "<p class=\"{class}\">{sign} {} rows were found to be common to all parties, without showing any \
         identifier; a plain join of the files finds {}.</p></section>",
        report.common_rows, report.expected_rows
    )
}

fn together(f: &mut fmt::Formatter<'_>, report: &VerticalReport) -> fmt::Result {
    write!(
        f,
        "<section><h2>Alone and together</h2><div class=\"scroll\"><table><thead><tr>\
         <th scope=\"col\">who</th><th scope=\"col\" class=\"n\">columns</th>\
         <th scope=\"col\" class=\"n\">features</th><th scope=\"col\" class=\"n\">{}</th></tr></thead>\
         <tbody>",
        Escaped(&report.metric_name)
    )?;
    let (mut columns, mut features) = (0, 0);
    for row in &report.alone {
        columns += row.columns;
        features += row.features;
        write!(
            f,
            "<tr><th scope=\"row\"><bdi>{}</bdi> alone</th><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&row.party),
            row.columns,
            row.features,
            number(row.metric),
        )?;
    }
    write!(
        f,
        "<tr><th scope=\"row\">all, label noise {}</th><td class=\"n\">{columns}</td>\
         <td class=\"n\">{features}</td><td class=\"n\">{}</td></tr>\
         </tbody></table></div><p class=\"note\">The last row ran through the services. The others are \
         simulated, without noise, as if each party had the labels.</p></section>",
        noise(report.epsilon),
        number(Some(report.metric)),
    )
}

fn costs(f: &mut fmt::Formatter<'_>, report: &VerticalReport) -> fmt::Result {
    write!(
        f,
        "<section><h2>What hiding labels costs</h2><div class=\"scroll\"><table><thead><tr>\
         <th scope=\"col\">label noise</th><th scope=\"col\" class=\"n\">sigma of a residual</th>\
         <th scope=\"col\" class=\"n\">{}</th></tr></thead><tbody>",
        Escaped(&report.metric_name)
    )?;
    for row in &report.costs {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{:.2}</td><td class=\"n\">{}</td></tr>",
            noise(row.epsilon),
            row.sigma,
            row.metric,
        )?;
    }
    write!(
        f,
        "</tbody></table></div><p class=\"note\"><strong>Simulated</strong>: the plain twin over {} seeds, \
         mean ± standard deviation. The noise is on the residuals that passive parties get products of; \
         epsilon bounds what they learn of one label over all epochs.</p></section>",
        report.seeds
    )
}

fn epochs(f: &mut fmt::Formatter<'_>, report: &VerticalReport) -> fmt::Result {
    f.write_str(
        "<section><h2>Epochs</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">epoch</th>\
         <th scope=\"col\" class=\"n\">batches</th><th scope=\"col\" class=\"n\">uploads</th>\
         <th scope=\"col\" class=\"n\">up per batch</th><th scope=\"col\" class=\"n\">sealed per batch</th>\
         <th scope=\"col\" class=\"n\">ms per batch</th><th scope=\"col\" class=\"n\">collect</th>\
         <th scope=\"col\" class=\"n\">open</th><th scope=\"col\">events</th></tr></thead><tbody>",
    )?;
    for row in &report.epochs {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"events\">{}</td></tr>",
            Escaped(&row.name),
            row.batches,
            row.uploads,
            bytes(row.per_batch(row.bytes_up)),
            bytes(row.per_batch(row.bytes_sealed)),
            millis(row.ms),
            millis(row.collect_ms),
            millis(row.open_ms),
            Escaped(&row.events.join("; ")),
        )?;
    }
    f.write_str(
        "</tbody></table></div><p class=\"note\">Up: what passive parties upload. Sealed: keys, requests and \
         gradients, which the aggregator passes on. Medians over the batches of an epoch; processes are \
         on one machine.</p></section>",
    )
}

fn messages(f: &mut fmt::Formatter<'_>, report: &VerticalReport) -> fmt::Result {
    f.write_str(
        "<section><h2>Messages</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">passive party\
         </th><th scope=\"col\" class=\"n\">batches</th><th scope=\"col\" class=\"n\">uploads</th>\
         <th scope=\"col\" class=\"n\">sent again</th><th scope=\"col\" class=\"n\">bytes</th>\
         </tr></thead><tbody>",
    )?;
    for row in &report.traffic {
        write!(
            f,
            "<tr><th scope=\"row\"><bdi>{}</bdi></th><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&row.party),
            row.batches,
            row.uploads,
            row.repeated,
            bytes(row.bytes),
        )?;
    }
    f.write_str(
        "</tbody></table></div><p class=\"note\">Counted in the aggregator’s log; after a fault \
         a party may send the same bytes again. ",
    )?;
    match report.contacts {
        Some((looks, services, others)) => write!(
            f,
            "Sockets of party processes, looked at {looks} times: {services} connections to services, \
             {others} to others or open to them.</p></section>"
        ),
        None => f.write_str("This system does not show the sockets of processes.</p></section>"),
    }
}

fn comparison(f: &mut fmt::Formatter<'_>, report: &VerticalReport) -> fmt::Result {
    let Some(compared) = &report.comparison else { return Ok(()) };
    f.write_str(
        "<section><h2>The same batch under other schemes</h2><div class=\"scroll\"><table><thead><tr>\
         <th scope=\"col\">scheme</th><th scope=\"col\" class=\"n\">bytes per batch</th>\
         <th scope=\"col\" class=\"n\">ms per batch</th></tr></thead><tbody>",
    )?;
    for row in &compared.schemes {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&row.name),
            bytes(row.bytes_per_batch),
            millis(row.ms_per_batch),
        )?;
    }
    write!(
        f,
        "</tbody></table></div><p class=\"note\">Measured outside this demo, without services; the baseline \
         has a modulus of {} bits. ",
        compared.baseline_bits
    )?;
    match compared.break_even_width {
        Some(width) => {
            write!(
                f,
                "It sends fewer bytes from {width} features of a passive party on.</p></section>"
            )
        }
        None => f.write_str("It sends more bytes at every width.</p></section>"),
    }
}
