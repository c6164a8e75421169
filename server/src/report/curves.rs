//! Curves over a number, as inline SVG: means joined by lines, with whiskers of one standard
//! deviation, and the name of each curve at its end.

use core::fmt;

use super::svg::{Axis, BOTTOM, HEIGHT, LEFT, TOP, WIDTH, nothing, open};
use super::{Curve, Escaped, Spread};

/// Room for the curves' names.
const RIGHT: f64 = 92.0;

/// Least distance of two names, and of two numbers under the horizontal axis.
const NAME_STEP: f64 = 13.0;
const NUMBER_STEP: f64 = 26.0;

/// A plot of several curves.
pub(super) struct Plot<'a> {
    /// Unique name in the page.
    pub(super) id: &'a str,
    /// One line over the plot.
    pub(super) title: &'a str,
    /// What a reader who does not see the plot should know.
    pub(super) description: &'a str,
    /// Name of the horizontal axis.
    pub(super) x_name: &'a str,
    /// Whether equal distances are equal ratios.
    pub(super) logarithmic: bool,
    /// The curves, at most five.
    pub(super) curves: &'a [Curve],
}

impl Plot<'_> {
    fn along(&self, x: f64) -> f64 {
        if self.logarithmic { x.ln() } else { x }
    }

    /// Points that can be drawn.
    fn points<'c>(&self, curve: &'c Curve) -> impl Iterator<Item = &'c (f64, Spread)> {
        let logarithmic = self.logarithmic;
        curve
            .points
            .iter()
            .filter(move |(x, y)| x.is_finite() && y.mean.is_finite() && (!logarithmic || *x > 0.0))
    }

    /// Draws it.
    pub(super) fn draw(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = || self.curves.iter().flat_map(|curve| self.points(curve));
        let reach = all().flat_map(|(_, y)| {
            let bar = y.whisker();
            [y.mean - bar, y.mean + bar]
        });
        let Some(axis) = Axis::over(reach, false) else {
            return nothing(f, self.title);
        };
        let mut numbers: Vec<f64> = all().map(|(x, _)| *x).collect();
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
        let first = numbers.first().map_or(0.0, |x| self.along(*x));
        let last = numbers.last().map_or(0.0, |x| self.along(*x));
        let (start, end) = (LEFT + 12.0, WIDTH - RIGHT);
        let place = |x: f64| {
            let share = if last > first { (self.along(x) - first) / (last - first) } else { 0.5 };
            start + share * (end - start)
        };
        open(f, self.id, self.title, self.description)?;
        axis.grid(f, end, |value| format!("{value:.2}"))?;
        let mut free = f64::NEG_INFINITY;
        for x in numbers {
            let at = place(x);
            if at >= free {
                let below = HEIGHT - BOTTOM;
                write!(
                    f,
                    "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{below}\"/>\
                     <text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{x}</text>",
                    below + 16.0,
                )?;
                free = at + NUMBER_STEP;
            }
        }
        write!(
            f,
            "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            (start + end) / 2.0,
            HEIGHT - 4.0,
            Escaped(self.x_name),
        )?;
        for (number, curve) in self.curves.iter().enumerate() {
            self.curve(f, number, curve, &axis, &place)?;
        }
        self.names(f, &axis, end)?;
        f.write_str("</svg>")
    }

    fn curve(
        &self,
        f: &mut fmt::Formatter<'_>,
        number: usize,
        curve: &Curve,
        axis: &Axis,
        place: &impl Fn(f64) -> f64,
    ) -> fmt::Result {
        let mut path = String::new();
        for (x, y) in self.points(curve) {
            let verb = if path.is_empty() { 'M' } else { 'L' };
            path.push_str(&format!("{verb}{:.1} {:.1}", place(*x), axis.y(y.mean)));
        }
        if !path.is_empty() {
            write!(f, "<path class=\"c{number} curve\" d=\"{path}\"/>")?;
        }
        for (x, y) in self.points(curve) {
            let (at, bar) = (place(*x), y.whisker());
            if bar > 0.0 {
                write!(
                    f,
                    "<line class=\"c{number} whisker\" x1=\"{at:.1}\" x2=\"{at:.1}\" \
                     y1=\"{:.1}\" y2=\"{:.1}\"/>",
                    axis.y(y.mean + bar),
                    axis.y(y.mean - bar),
                )?;
            }
            write!(
                f,
                "<circle class=\"c{number} point\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\">\
                 <title>{}, {} {x}: {y}</title></circle>",
                axis.y(y.mean),
                Escaped(&curve.name),
                Escaped(self.x_name),
            )?;
        }
        Ok(())
    }

    /// The curves' names beside their last points, pushed apart where these are close.
    fn names(&self, f: &mut fmt::Formatter<'_>, axis: &Axis, end: f64) -> fmt::Result {
        let ends = self.curves.iter().enumerate().filter_map(|(number, curve)| {
            let (_, y) = self.points(curve).last()?;
            Some((axis.y(y.mean), number, &curve.name))
        });
        let mut ends: Vec<_> = ends.collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        // From below, as far up as the ones under it demand; then down from the top margin.
        let mut most = HEIGHT - BOTTOM;
        for (y, _, _) in ends.iter_mut().rev() {
            *y = y.min(most);
            most = *y - NAME_STEP;
        }
        let mut least = TOP;
        for (y, number, name) in ends {
            let y = y.max(least);
            least = y + NAME_STEP;
            write!(
                f,
                "<text class=\"c{number} name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                end + 9.0,
                y + 4.0,
                Escaped(name),
            )?;
        }
        Ok(())
    }
}
