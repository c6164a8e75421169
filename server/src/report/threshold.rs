//! The report of a demo of the threshold protocol: what noise costs, and the run that was no
//! simulation.

use core::fmt;

use serde::Serialize;

use super::curves::Plot;
use super::page::{CLOSE, heading, open, settings};
use super::{Escaped, bytes, millis, number};

/// Mean and sample standard deviation over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation; 0 for one seed.
    pub deviation: f64,
}

/// One regime over epsilon, or over the number of parties.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// Name of the regime.
    pub name: String,
    /// Points in the order of the first number.
    pub points: Vec<(f64, Spread)>,
}

/// One regime at the setting that was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct RegimeRow {
    /// Name of the regime.
    pub name: String,
    /// Who adds how much noise, in a sentence.
    pub noise: String,
    /// The metric.
    pub metric: Spread,
    /// Share of held-out rows whose class is right.
    pub accuracy: Spread,
}

/// All that the report of a threshold demo shows.
#[derive(Clone, Debug, Serialize)]
pub struct ThresholdReport {
    /// Headline.
    pub title: String,
    /// Data set, target, fold and model.
    pub data: String,
    /// What `metric` is, for instance `macro-F1`.
    pub metric_name: String,
    /// Parties.
    pub parties: usize,
    /// Seeds behind every mean.
    pub seeds: u64,
    /// What was set, as pairs of a name and a value.
    pub settings: Vec<(String, String)>,
    /// The regimes at the setting that was asked for.
    pub regimes: Vec<RegimeRow>,
    /// The metric over epsilon; empty without a sweep.
    pub by_epsilon: Vec<Curve>,
    /// The metric over the number of parties; empty without a sweep.
    pub by_parties: Vec<Curve>,
    /// Runs through the real services.
    pub runs: Vec<RealRun>,
}

/// A job that ran through the real services.
#[derive(Clone, Debug, Serialize)]
pub struct RealRun {
    /// Name of the scheme.
    pub scheme: String,
    /// The job's id.
    pub job: String,
    /// epsilon of its rounds.
    pub epsilon: f64,
    /// Parties, all of which contributed to every sum.
    pub parties: usize,
    /// N, parties that held a share of the key.
    pub holders: u32,
    /// T, holders that open a sum together with the authority.
    pub needed: u32,
    /// Calls for a key.
    pub key_calls: u16,
    /// Seconds from the job's creation until its key was complete.
    pub key_seconds: f64,
    /// Seconds from the job's creation to its end.
    pub seconds: f64,
    /// Number of rounds.
    pub rounds: usize,
    /// Whether every opened sum equals that of the simulated cell with the same seeds.
    pub sums_equal: bool,
    /// The first difference, if there is one.
    pub difference: Option<String>,
    /// The metric of its model on held-out rows.
    pub metric: f64,
    /// SHA-256 of its model, in hexadecimal.
    pub model_hash: String,
    /// The same of the simulated cell's.
    pub simulated_model_hash: String,
    /// Bytes of ciphertexts and headers that parties sent.
    pub bytes_up: u64,
    /// Bytes of opened sums that parties fetched.
    pub bytes_down: u64,
    /// Bytes of partial decryptions that holders sent.
    pub bytes_shares: u64,
    /// rho-zCDP that the authority's ledger shows as spent.
    pub rho_spent: f64,
    /// epsilon of it at the job's delta.
    pub epsilon_spent: f64,
    /// Its rounds.
    pub table: Vec<RealRound>,
}

/// One opened round of a [`RealRun`].
#[derive(Clone, Debug, Serialize)]
pub struct RealRound {
    /// Round, from 0.
    pub round: u32,
    /// Values of the opened sum.
    pub values: usize,
    /// Members of the frozen set.
    pub members: usize,
    /// Who answered with a partial decryption, the authority first.
    pub opened_by: Vec<String>,
    /// Metric of the model after the round.
    pub metric: f64,
    /// Bytes of ciphertexts and headers that parties sent.
    pub bytes_up: u64,
    /// Bytes of the opened sum that parties fetched.
    pub bytes_down: u64,
    /// Bytes of partial decryptions that holders sent.
    pub bytes_shares: u64,
    /// Milliseconds to collect replies.
    pub collect_ms: u64,
    /// Milliseconds to freeze the set and to get the promise.
    pub promise_ms: u64,
    /// Milliseconds until all partial decryptions were there.
    pub shares_ms: u64,
    /// Milliseconds to open the sum.
    pub open_ms: u64,
}

impl Spread {
    /// Half the length of a plot's whisker.
    pub(super) fn whisker(&self) -> f64 {
        if self.deviation.is_finite() { self.deviation.max(0.0) } else { 0.0 }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ± {}", number(Some(self.mean)), number(Some(self.deviation)))
    }
}

/// The report as one self-contained HTML page.
#[must_use]
pub fn render_threshold_html(report: &ThresholdReport) -> String {
    Page(report).to_string()
}

struct Page<'a>(&'a ThresholdReport);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        open(f, &report.title)?;
        heading(f, &report.title, &report.data)?;
        summary(f, report)?;
        plots(f, report)?;
        regimes(f, report)?;
        report.runs.iter().try_for_each(|run| real(f, report, run))?;
        settings(f, &report.settings)?;
        sweep(f, report, "Over epsilon", "epsilon", &report.by_epsilon)?;
        sweep(f, report, "Over the number of parties", "parties", &report.by_parties)?;
        f.write_str(CLOSE)
    }
}

fn summary(f: &mut fmt::Formatter<'_>, report: &ThresholdReport) -> fmt::Result {
    f.write_str("<section aria-label=\"Summary\"><dl class=\"tiles\">")?;
    for row in &report.regimes {
        write!(
            f,
            "<div><dt>{}, {}</dt><dd>{}</dd></div>",
            Escaped(&report.metric_name),
            Escaped(&row.name),
            number(Some(row.metric.mean)),
        )?;
    }
    f.write_str("</dl>")?;
    for run in &report.runs {
        let scheme = Escaped(&run.scheme);
        if run.sums_equal {
            write!(
                f,
                "<p class=\"good\">✓ {} rounds with <code>{scheme}</code> through the real services: \
                 every opened sum, and the model <code>{}</code>, equal those of the simulated run \
                 with the same seeds.</p>",
                run.rounds,
                Escaped(&run.model_hash),
            )?;
        } else {
            write!(
                f,
                "<p class=\"bad\">✗ With <code>{scheme}</code> an opened sum differs from that of the \
                 simulated run with the same seeds: {}</p>",
                Escaped(run.difference.as_deref().unwrap_or("it is not known where")),
            )?;
        }
    }
    write!(
        f,
        "<p class=\"note\">The figures above, both plots and the tables over epsilon and parties are \
         <strong>simulated</strong>: plain sums with one exact draw of the noise each, mean and \
         standard deviation over {} seeds. What ran through the real services says so.</p></section>",
        report.seeds
    )
}

fn plots(f: &mut fmt::Formatter<'_>, report: &ThresholdReport) -> fmt::Result {
    if report.by_epsilon.is_empty() && report.by_parties.is_empty() {
        return Ok(());
    }
    f.write_str("<section class=\"plots\" aria-label=\"Plots\">")?;
    let caption = "simulated; whiskers: one standard deviation over the seeds";
    let plot = |f: &mut fmt::Formatter<'_>, id, title: String, x_name, logarithmic, curves| {
        f.write_str("<figure>")?;
        let description =
            "One curve per regime, simulated; the numbers are in a table at the end of the page.";
        Plot { id, title: &title, description, x_name, logarithmic, curves }.draw(f)?;
        write!(f, "<figcaption class=\"note\">{caption}</figcaption></figure>")
    };
    let name = &report.metric_name;
    let title = format!("{name} over epsilon, {} parties", report.parties);
    plot(f, "by-epsilon", title, "epsilon", true, report.by_epsilon.as_slice())?;
    let title = format!("{name} over the number of parties");
    plot(f, "by-parties", title, "parties", false, report.by_parties.as_slice())?;
    f.write_str("</section>")
}

fn regimes(f: &mut fmt::Formatter<'_>, report: &ThresholdReport) -> fmt::Result {
    write!(
        f,
        "<section><h2>Regimes</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">regime\
         </th><th scope=\"col\">noise of a sum</th><th scope=\"col\" class=\"n\">{}</th>\
         <th scope=\"col\" class=\"n\">accuracy</th></tr></thead><tbody>",
        Escaped(&report.metric_name)
    )?;
    for row in &report.regimes {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            Escaped(&row.name),
            Escaped(&row.noise),
            row.metric,
            row.accuracy,
        )?;
    }
    write!(
        f,
        "</tbody></table></div><p class=\"note\">simulated, {} seeds: mean ± standard deviation on \
         held-out rows</p></section>",
        report.seeds
    )
}

fn real(f: &mut fmt::Formatter<'_>, report: &ThresholdReport, run: &RealRun) -> fmt::Result {
    write!(
        f,
        "<section><h2>Through the real services: <code>{}</code></h2><p>One process per role on \
         loopback. The job is the hybrid at epsilon {} and {} parties, a cell of both sweeps, with each \
         party’s own share of the noise. {} of {} key holders open a sum together with the authority. \
         The key took {:.1} s (calls for it: {}), the whole job {:.1} s. {} were sent to the aggregator, {} \
         of partial decryptions, {} of sums fetched. The authority’s ledger shows rho {:.6}, which is \
         epsilon {:.4}. {} of the model on held-out rows: {}.</p>",
        Escaped(&run.scheme),
        run.epsilon,
        run.parties,
        run.needed,
        run.holders,
        run.key_seconds,
        run.key_calls,
        run.seconds,
        bytes(run.bytes_up),
        bytes(run.bytes_shares),
        bytes(run.bytes_down),
        run.rho_spent,
        run.epsilon_spent,
        Escaped(&report.metric_name),
        number(Some(run.metric)),
    )?;
    write!(
        f,
        "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">round</th>\
         <th scope=\"col\" class=\"n\">values</th><th scope=\"col\" class=\"n\">members</th>\
         <th scope=\"col\" class=\"n\">{}</th><th scope=\"col\" class=\"n\">up</th>\
         <th scope=\"col\" class=\"n\">partial decryptions</th><th scope=\"col\" class=\"n\">down</th>\
         <th scope=\"col\" class=\"n\">collect ms</th><th scope=\"col\" class=\"n\">promise ms</th>\
         <th scope=\"col\" class=\"n\">decrypt ms</th><th scope=\"col\" class=\"n\">open ms</th>\
         <th scope=\"col\">opened by</th></tr></thead><tbody>",
        Escaped(&report.metric_name)
    )?;
    for row in &run.table {
        write!(
            f,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td>",
            row.round,
            row.values,
            row.members,
            number(Some(row.metric)),
            bytes(row.bytes_up),
            bytes(row.bytes_shares),
            bytes(row.bytes_down),
        )?;
        for ms in [row.collect_ms, row.promise_ms, row.shares_ms, row.open_ms] {
            write!(f, "<td class=\"n\">{}</td>", millis(ms as f64))?;
        }
        write!(f, "<td class=\"events\">{}</td></tr>", Escaped(&row.opened_by.join(", ")))?;
    }
    f.write_str("</tbody></table></div></section>")
}

fn sweep(
    f: &mut fmt::Formatter<'_>,
    report: &ThresholdReport,
    title: &str,
    x_name: &str,
    curves: &[Curve],
) -> fmt::Result {
    let Some(first) = curves.first() else { return Ok(()) };
    write!(
        f,
        "<section><h2>{title}</h2><div class=\"scroll\"><table><thead><tr>\
         <th scope=\"col\" class=\"n\">{x_name}</th>"
    )?;
    for curve in curves {
        write!(f, "<th scope=\"col\" class=\"n\">{}</th>", Escaped(&curve.name))?;
    }
    f.write_str("</tr></thead><tbody>")?;
    for (index, (x, _)) in first.points.iter().enumerate() {
        write!(f, "<tr><th scope=\"row\" class=\"n\">{x}</th>")?;
        for curve in curves {
            let value = curve.points.get(index).map_or("–".to_owned(), |(_, y)| y.to_string());
            write!(f, "<td class=\"n\">{value}</td>")?;
        }
        f.write_str("</tr>")?;
    }
    write!(
        f,
        "</tbody></table></div><p class=\"note\">{}, simulated, {} seeds</p></section>",
        Escaped(&report.metric_name),
        report.seeds
    )
}
