//! Two kinds of plot over rounds, as inline SVG: lines with gaps, and stacked bars.

use core::fmt;

use super::Escaped;

pub(super) const WIDTH: f64 = 640.0;
pub(super) const HEIGHT: f64 = 230.0;
pub(super) const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
pub(super) const TOP: f64 = 20.0;
pub(super) const BOTTOM: f64 = 36.0;

/// What the two kinds share.
pub(super) struct Chart<'a> {
    /// Unique name in the page.
    pub(super) id: &'a str,
    /// One line over the plot.
    pub(super) title: &'a str,
    /// What a reader who does not see the plot should know.
    pub(super) description: String,
    /// One label per round, under the horizontal axis.
    pub(super) labels: &'a [String],
    /// Per round what happened, empty if nothing: drawn as a marker.
    pub(super) events: &'a [String],
    /// How values are written on the vertical axis and in tooltips.
    pub(super) show: fn(f64) -> String,
}

/// A part of a stacked bar.
pub(super) struct Part {
    /// Name in the legend.
    pub(super) name: &'static str,
    /// One value per round.
    pub(super) values: Vec<f64>,
}

/// The vertical axis: from `low` to `high`, a tick every `step`.
pub(super) struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis of at most about eight round ticks that holds all finite `values`.
    pub(super) fn over(values: impl Iterator<Item = f64>, from_zero: bool) -> Option<Self> {
        let (mut low, mut high) =
            values.filter(|value| value.is_finite()).fold(None, |range, value| match range {
                None => Some((value, value)),
                Some((low, high)) => Some((value.min(low), value.max(high))),
            })?;
        if from_zero {
            low = low.min(0.0);
        }
        // A flat line still gets an axis whose ticks differ in their printed digits.
        let least = (high.abs() * 1e-3).max(1e-3);
        if high - low < least {
            high = low + least;
        }
        let raw = (high - low) / 5.0;
        let magnitude = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * magnitude)
            .into_iter()
            .find(|step| *step >= raw)
            .unwrap_or(raw);
        Some(Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step })
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=12)
            .map(|i| self.low + f64::from(i) * self.step)
            .take_while(|tick| *tick <= self.high + self.step / 2.0)
    }

    /// Grid lines and numbers, from the left margin to `end`.
    pub(super) fn grid(
        &self,
        f: &mut fmt::Formatter<'_>,
        end: f64,
        show: fn(f64) -> String,
    ) -> fmt::Result {
        for tick in self.ticks() {
            let y = self.y(tick);
            write!(
                f,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                show(tick),
            )?;
        }
        Ok(())
    }
}

/// Opens a plot with its heading and what a reader who does not see it should know.
pub(super) fn open(
    f: &mut fmt::Formatter<'_>,
    id: &str,
    title: &str,
    description: &str,
) -> fmt::Result {
    write!(
        f,
        "<h3>{0}</h3><svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{0}</title>\
         <desc id=\"{id}-d\">{1}</desc>",
        Escaped(title),
        Escaped(description),
    )
}

/// What stands in place of a plot without values.
pub(super) fn nothing(f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
    write!(f, "<h3>{}</h3><p class=\"note\">No values.</p>", Escaped(title))
}

impl Chart<'_> {
    fn band(&self) -> f64 {
        (WIDTH - LEFT - RIGHT) / self.labels.len().max(1) as f64
    }

    /// Centre of round number `i`.
    fn x(&self, i: usize) -> f64 {
        LEFT + (i as f64 + 0.5) * self.band()
    }

    /// Values joined by lines, with gaps; `reference` is a level drawn across, and its name.
    pub(super) fn line(
        &self,
        f: &mut fmt::Formatter<'_>,
        values: &[Option<f64>],
        reference: Option<(f64, &str)>,
    ) -> fmt::Result {
        let finite = |value: &Option<f64>| value.filter(|value| value.is_finite());
        let all = values.iter().filter_map(finite).chain(reference.map(|(level, _)| level));
        let Some(axis) = Axis::over(all, false) else {
            return nothing(f, self.title);
        };
        self.open(f, &axis)?;
        if let Some((level, name)) = reference.filter(|(level, _)| level.is_finite()) {
            let (y, end) = (axis.y(level), WIDTH - RIGHT);
            write!(
                f,
                "<line class=\"reference\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"direct\" x=\"{end}\" y=\"{:.1}\" text-anchor=\"end\">{} {}</text>",
                // Under the line where the axis ends, above it elsewhere.
                if y < TOP + 14.0 { y + 14.0 } else { y - 5.0 },
                Escaped(name),
                (self.show)(level),
            )?;
        }
        let mut path = String::new();
        let mut joined = false;
        for (i, value) in values.iter().enumerate() {
            // A retried attempt has no model of its own: the line passes over it.
            if let Some(value) = finite(value) {
                let verb = if joined { 'L' } else { 'M' };
                path.push_str(&format!("{verb}{:.1} {:.1}", self.x(i), axis.y(value)));
                joined = true;
            }
        }
        write!(f, "<path class=\"line\" d=\"{path}\"/>")?;
        for (i, (label, value)) in self.labels.iter().zip(values).enumerate() {
            if let Some(value) = finite(value) {
                write!(
                    f,
                    "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\">\
                     <title>round {}: {}</title></circle>",
                    self.x(i),
                    axis.y(value),
                    Escaped(label),
                    (self.show)(value),
                )?;
            }
        }
        self.close(f)
    }

    /// Bars of stacked parts, with a legend.
    pub(super) fn bars(&self, f: &mut fmt::Formatter<'_>, parts: &[Part]) -> fmt::Result {
        let at = |part: &Part, i: usize| {
            part.values.get(i).copied().filter(|value| value.is_finite()).unwrap_or(0.0).max(0.0)
        };
        let totals =
            (0..self.labels.len()).map(|i| parts.iter().map(|part| at(part, i)).sum::<f64>());
        let Some(axis) = Axis::over(totals, true) else {
            return nothing(f, self.title);
        };
        self.open(f, &axis)?;
        let width = (self.band() * 0.66).min(36.0);
        for (i, label) in self.labels.iter().enumerate() {
            let mut below = 0.0;
            for (series, part) in parts.iter().enumerate() {
                let value = at(part, i);
                if value > 0.0 {
                    let (top, bottom) = (axis.y(below + value), axis.y(below));
                    write!(
                        f,
                        "<rect class=\"s{series}\" x=\"{:.1}\" y=\"{top:.2}\" width=\"{width:.1}\" \
                         height=\"{:.2}\"><title>round {}, {}: {}</title></rect>",
                        self.x(i) - width / 2.0,
                        bottom - top,
                        Escaped(label),
                        part.name,
                        (self.show)(value),
                    )?;
                }
                below += value;
            }
        }
        self.close(f)?;
        f.write_str("<ul class=\"legend\">")?;
        for (series, part) in parts.iter().enumerate() {
            write!(
                f,
                "<li><svg class=\"key\" viewBox=\"0 0 10 10\" aria-hidden=\"true\">\
                 <rect class=\"s{series}\" width=\"10\" height=\"10\"/></svg>{}</li>",
                part.name
            )?;
        }
        f.write_str("</ul>")
    }

    /// Heading, axes, grid and event markers.
    fn open(&self, f: &mut fmt::Formatter<'_>, axis: &Axis) -> fmt::Result {
        open(f, self.id, self.title, &self.description)?;
        axis.grid(f, WIDTH - RIGHT, self.show)?;
        let every = self.labels.len().div_ceil(20).max(1);
        for (i, label) in self.labels.iter().enumerate().step_by(every) {
            write!(
                f,
                "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                self.x(i),
                HEIGHT - BOTTOM + 16.0,
                Escaped(label),
            )?;
        }
        write!(
            f,
            "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">round</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 4.0,
        )?;
        for (i, event) in self.events.iter().enumerate().filter(|(_, event)| !event.is_empty()) {
            let x = self.x(i);
            write!(
                f,
                "<g class=\"event\"><title>{}</title>\
                 <line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\"/>\
                 <path d=\"M{x:.1} {TOP} l-6 -11 h12 z\"/></g>",
                Escaped(event),
                HEIGHT - BOTTOM,
            )?;
        }
        Ok(())
    }

    fn close(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("</svg>")
    }
}
