//! The demo's report: one HTML file that needs nothing else, and lines for the terminal.
//!
//! Everything a report says is in [`DemoReport`]; rendering adds no fact. Pages carry no script and
//! a content policy that would refuse one, and every text is escaped: party names and column names
//! come from whoever wrote the data.

mod curves;
mod page;
mod payments;
mod svg;
#[cfg(test)]
mod tests;
mod threshold;
mod vertical;

use core::fmt;

use serde::Serialize;

pub use payments::{
    AreaRow, HandledRow, PaymentsPhaseRow, PaymentsReport, WireRow, render_payments_html,
};
pub use threshold::{
    Curve, RealRound, RealRun, RegimeRow, Spread, ThresholdReport, render_threshold_html,
};
pub use vertical::{
    AloneRow, Comparison, CostRow, EpochRow, RoleRow, SchemeRow, TrafficRow, VerticalReport,
    render_vertical_html,
};

/// All that the demo's report shows.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Headline.
    pub title: String,
    /// Name of the scheme.
    pub scheme: String,
    /// Name of the data set, its target and split.
    pub data: String,
    /// The parties, in roster order.
    pub parties: Vec<PartyRow>,
    /// Every attempt of every round, in the order in which they ended.
    pub rounds: Vec<RoundRow>,
    /// What `metric` is, for instance `AUC`.
    pub metric_name: String,
    /// The final model on held-out rows.
    pub metric: f64,
    /// A model trained on the pooled rows, on the same held-out rows.
    pub pooled_metric: f64,
    /// SHA-256 of the final model, in hexadecimal.
    pub model_hash: String,
    /// The same for the separate process that trained without encryption, if it ran.
    pub plain_model_hash: Option<String>,
    /// The faults that were injected, one sentence each.
    pub faults: Vec<String>,
}

/// One party and its data.
#[derive(Clone, Debug, Serialize)]
pub struct PartyRow {
    /// Name.
    pub name: String,
    /// Training rows it holds.
    pub rows: u64,
    /// Rows of the positive class, where there are two classes.
    pub positives: Option<u64>,
}

/// One attempt of one round.
#[derive(Clone, Debug, Serialize)]
pub struct RoundRow {
    /// Round, from 0.
    pub round: u32,
    /// What was summed: `moments`, `weights` and so on.
    pub purpose: String,
    /// Attempt, from 0.
    pub attempt: u32,
    /// Parties whose update is in the opened sum.
    pub banks: Vec<String>,
    /// Parties that were invited and are not in it.
    pub missing: Vec<String>,
    /// Loss of the model after the round, on held-out rows.
    pub loss: Option<f64>,
    /// Metric of the model after the round, on held-out rows.
    pub metric: Option<f64>,
    /// Bytes the parties and authorities sent to the aggregator.
    pub bytes_up: u64,
    /// Bytes the aggregator sent to them.
    pub bytes_down: u64,
    /// Time by phase.
    pub ms: PhaseMillis,
    /// Faults and other happenings, one sentence each.
    pub events: Vec<String>,
}

/// Wall-clock milliseconds of one attempt; phases that did not happen are 0.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PhaseMillis {
    /// Local training at the slowest party.
    pub train: f64,
    /// Encryption and upload at the slowest party.
    pub encrypt_upload: f64,
    /// Freezing the set of contributors.
    pub freeze: f64,
    /// Collecting every authority's promise.
    pub promise: f64,
    /// Collecting every authority's functional key.
    pub key: f64,
    /// Opening the sum.
    pub open: f64,
    /// From the opening of the round to its result, waiting included.
    pub total: f64,
}

impl PhaseMillis {
    /// Names and values of the phases in order; the last one is what no phase accounts for.
    #[must_use]
    pub fn phases(&self) -> [(&'static str, f64); 7] {
        let named =
            [self.train, self.encrypt_upload, self.freeze, self.promise, self.key, self.open];
        let rest = (self.total - named.iter().sum::<f64>()).max(0.0);
        [
            ("train", self.train),
            ("encrypt + upload", self.encrypt_upload),
            ("freeze", self.freeze),
            ("promise", self.promise),
            ("key", self.key),
            ("open", self.open),
            ("waiting", rest),
        ]
    }
}

impl RoundRow {
    /// The round's short name on axes: `3`, or `3.1` for attempt 1 of round 3.
    #[must_use]
    pub fn label(&self) -> String {
        match self.attempt {
            0 => self.round.to_string(),
            attempt => format!("{}.{attempt}", self.round),
        }
    }

    fn invited(&self) -> usize {
        self.banks.len() + self.missing.len()
    }
}

/// The report as one self-contained HTML page.
#[must_use]
pub fn render_html(report: &DemoReport) -> String {
    page::Page(report).to_string()
}

/// The heading over lines of [`render_table`].
#[must_use]
pub fn table_header(metric_name: &str) -> String {
    format!(
        "{:>5}  {:<9} {:>5}  {:>8} {:>8}  {:>9} {:>9}  {:>7}  {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "round",
        "sum",
        "banks",
        "loss",
        Clean(metric_name).to_string(),
        "up",
        "down",
        "ms",
        "train",
        "encrypt",
        "freeze",
        "promise",
        "key",
        "open"
    )
}

/// One attempt as a line of text, with a further indented line for who is missing and for each
/// event. Control characters are replaced, so that no name can steer a terminal.
#[must_use]
pub fn render_table(row: &RoundRow) -> String {
    let ms = &row.ms;
    let mut text = format!(
        "{:>5}  {:<9} {:>5}  {:>8} {:>8}  {:>9} {:>9}  {:>7.0}  {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0}",
        row.label(),
        Clean(&row.purpose).to_string(),
        format!("{}/{}", row.banks.len(), row.invited()),
        number(row.loss),
        number(row.metric),
        bytes(row.bytes_up),
        bytes(row.bytes_down),
        ms.total,
        ms.train,
        ms.encrypt_upload,
        ms.freeze,
        ms.promise,
        ms.key,
        ms.open,
    );
    if !row.missing.is_empty() {
        text.push_str(&format!("\n       missing: {}", Clean(&row.missing.join(", "))));
    }
    for event in &row.events {
        text.push_str(&format!("\n       {}", Clean(event)));
    }
    text
}

/// Four decimals, or a dash where there is no number.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.4}"),
        _ => "–".to_owned(),
    }
}

/// A byte count in decimal units with three significant digits.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let decimals = match unit {
        "B" => 0,
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// Milliseconds, with decimals only where they say something.
fn millis(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = if value < 9.995 { 1 } else { 0 };
    format!("{value:.decimals$}")
}

/// Text without control characters and direction overrides.
struct Clean<'a>(&'a str);

impl Clean<'_> {
    fn chars(&self) -> impl Iterator<Item = char> + '_ {
        self.0.chars().map(|c| match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
    }
}

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chars().try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

/// Text as it stands in HTML, in an element or in a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Clean(self.0).chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => fmt::Write::write_char(f, c),
        })
    }
}
