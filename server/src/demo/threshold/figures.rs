//! The simulated figures: every regime at the setting asked for, over epsilon and over the number of
//! parties.

use anyhow::Context as _;
use quorate_client::learn::data::{Dataset, Table};
use quorate_client::learn::metrics::Fit;
use quorate_client::learn::split::hold_out;
use quorate_client::learn::sweep::{
    Cell, EPSILONS, PARTIES, Regime, Setting, by_epsilon, by_parties, spread,
};
use quorate_protocols::wire::Name;
use tokio::sync::oneshot;

use super::{Options, Plan};
use crate::demo::data::Source;
use crate::demo::watch::progress;
use crate::report::{Curve, Spread};

/// All cells that were trained.
#[derive(Debug)]
pub(super) struct Figures {
    /// At the epsilon and the parties asked for.
    pub(super) asked: Vec<Cell>,
    /// At the parties asked for; empty without a sweep.
    pub(super) by_epsilon: Vec<Cell>,
    /// At the epsilon asked for; empty without a sweep.
    pub(super) by_parties: Vec<Cell>,
}

/// All that the thread that sweeps needs.
struct Work {
    plan: Plan,
    parties: Vec<(Name, Dataset)>,
    test: Dataset,
    table: Table,
    train: Vec<usize>,
    seeds: u64,
    sweep: bool,
}

impl Figures {
    /// Trains them on a thread of their own, which an interrupted demo does not wait for.
    ///
    /// # Errors
    /// When training fails.
    pub(super) async fn of(
        plan: &Plan,
        source: &Source,
        options: &Options,
        setting: &Setting<'_>,
    ) -> anyhow::Result<Self> {
        let (train, _) = hold_out(source.table(), options.fold)?;
        let work = Work {
            plan: plan.clone(),
            parties: setting.parties.to_vec(),
            test: setting.test.clone(),
            table: source.table().clone(),
            train,
            seeds: options.seeds,
            sweep: options.sweep,
        };
        let (done, figures) = oneshot::channel();
        std::thread::spawn(move || done.send(work.figures()));
        figures.await.context("the sweeps were interrupted")?
    }
}

impl Work {
    fn figures(&self) -> anyhow::Result<Figures> {
        let Self { plan, seeds, .. } = self;
        let setting = plan.setting(&self.parties, &self.test);
        let (mut epsilons, mut counts) = (vec![plan.epsilon], Vec::new());
        if self.sweep {
            epsilons.extend(EPSILONS.into_iter().filter(|epsilon| *epsilon != plan.epsilon));
            counts.extend(PARTIES.into_iter().filter(|count| *count != plan.parties));
        }
        let bar = progress(
            (epsilons.len() + counts.len()) as u64,
            "sweep {pos}/{len} [{bar:32}] {elapsed}",
        )?;
        bar.suspend(|| println!("\nsimulated, {seeds} seeds: mean macro-F1 and its deviation"));
        let show = |cells: &[Cell]| {
            bar.suspend(|| println!("{}", line(cells)));
            bar.inc(1);
        };
        let mut over_epsilon = Vec::new();
        for epsilon in epsilons {
            let setting = Setting { epsilon, ..setting.clone() };
            let cells = by_epsilon(&setting, &[epsilon], *seeds)?;
            show(&cells);
            over_epsilon.push(cells);
        }
        let asked = over_epsilon.first().cloned().unwrap_or_default();
        let mut over_parties = vec![asked.clone()];
        for count in counts {
            let cells = by_parties(&setting, (&self.table, &self.train), &[count], *seeds)?;
            show(&cells);
            over_parties.push(cells);
        }
        bar.finish_and_clear();
        if !self.sweep {
            return Ok(Figures { asked, by_epsilon: Vec::new(), by_parties: Vec::new() });
        }
        over_epsilon
            .sort_by(|a, b| first(a, |cell| cell.epsilon).total_cmp(&first(b, |c| c.epsilon)));
        over_parties.sort_by_key(|cells| cells.first().map(|cell| cell.parties));
        let (by_epsilon, by_parties) = (over_epsilon.concat(), over_parties.concat());
        Ok(Figures { asked, by_epsilon, by_parties })
    }
}

fn first(cells: &[Cell], of: fn(&Cell) -> f64) -> f64 {
    cells.first().map_or(0.0, of)
}

/// The cells of one setting as a line.
fn line(cells: &[Cell]) -> String {
    let place = cells.first().map_or_else(String::new, |cell| {
        format!("epsilon {:<4} {:>2} parties:", cell.epsilon, cell.parties)
    });
    Regime::ALL.into_iter().fold(place, |line, regime| {
        let Spread { mean, deviation } = over_seeds(cells, regime, |fit| fit.macro_f1);
        format!("{line}  {} {mean:.3} ({deviation:.3})", name(regime))
    })
}

/// What people call a regime.
pub(super) const fn name(regime: Regime) -> &'static str {
    match regime {
        Regime::NoPrivacy => "no privacy",
        Regime::Central => "central DP",
        Regime::Hybrid => "hybrid",
        Regime::Local => "local DP",
        Regime::Alone => "alone",
    }
}

/// Mean and deviation over the seeds of one regime.
pub(super) fn over_seeds(cells: &[Cell], regime: Regime, of: fn(&Fit) -> f64) -> Spread {
    let own = cells.iter().filter(|cell| cell.regime == regime);
    let (mean, deviation) = spread(&own.map(|cell| of(&cell.fit)).collect::<Vec<_>>());
    Spread { mean, deviation }
}

/// macro-F1 of every regime over `x`; cells of one setting are neighbours.
pub(super) fn curves(cells: &[Cell], x: fn(&Cell) -> f64) -> Vec<Curve> {
    if cells.is_empty() {
        return Vec::new();
    }
    let settings: Vec<&[Cell]> = cells.chunk_by(|a, b| x(a) == x(b)).collect();
    let curve = |regime| Curve {
        name: name(regime).to_owned(),
        points: settings
            .iter()
            .map(|cells| (first(cells, x), over_seeds(cells, regime, |fit| fit.macro_f1)))
            .collect(),
    };
    Regime::ALL.into_iter().map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_means_over_the_seeds_of_a_regime() {
        let cell = |epsilon, regime, seed, macro_f1| Cell {
            regime,
            parties: 10,
            epsilon,
            seed,
            fit: Fit { accuracy: 0.0, macro_f1 },
            simulated: true,
        };
        let cells = [
            cell(0.5, Regime::Hybrid, 0, 0.25),
            cell(0.5, Regime::Local, 0, 0.0),
            cell(0.5, Regime::Hybrid, 1, 0.75),
            cell(0.5, Regime::Local, 1, 0.0),
            cell(2.0, Regime::Hybrid, 0, 1.0),
            cell(2.0, Regime::Local, 0, 0.5),
        ];
        let curves = curves(&cells, |cell| cell.epsilon);
        let names: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["no privacy", "central DP", "hybrid", "local DP", "alone"]);
        let spread = |mean, deviation| Spread { mean, deviation };
        let half = 0.125f64.sqrt();
        assert_eq!(curves[2].points, [(0.5, spread(0.5, half)), (2.0, spread(1.0, 0.0))]);
        assert_eq!(curves[3].points, [(0.5, spread(0.0, 0.0)), (2.0, spread(0.5, 0.0))]);
        assert!(super::curves(&[], |cell| cell.epsilon).is_empty());
    }
}
