//! Charts as SVG: lines, boxes and bars over two axes, with a legend beside them.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::statistics::{Spread, float, quartiles};

const SIZE: (u32, u32) = (860, 400);
const LEGEND_WIDTH: u32 = 230;
const LEGEND_LINE: i32 = 18;
/// Longer names in a legend are cut.
const LEGEND_CHARS_MAX: usize = 32;
const TICK_COUNT: f64 = 6.0;
const FONT: &str = "sans-serif";
/// Okabe and Ito, "Color Universal Design": told apart by everybody.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(90, 90, 90),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Range, Range>>;

/// What an axis counts, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

/// An axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis<'a> {
    pub(crate) name: &'a str,
    pub(crate) scale: Scale,
}

/// A line through points.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// In the legend; none if empty.
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) width: u32,
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether points are shown as such.
    pub(crate) has_dots: bool,
}

/// Something at a place, or over a stretch, of the horizontal axis.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// Bars of one colour, one for each category; `None` leaves a gap.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<Spread>>,
}

/// Draws lines and marks.
///
/// # Errors
/// Those of the drawing.
pub(crate) fn lines(
    title: &str,
    [x, y]: [Axis<'_>; 2],
    lines: &[Line],
    marks: &[Mark],
) -> Result<String> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let across = Range::new(x.scale, points().map(|(x, _)| x));
    let up = Range::new(y.scale, points().map(|(_, y)| y));
    let mut svg = String::new();
    {
        let root = root(&mut svg)?;
        let mut chart = begin(&root, title, [(x.name, &across), (y.name, &up)])?;
        for mark in marks {
            let (from, to) = (mark.from, mark.to.max(mark.from));
            let corners = [(from, up.from), (to, up.to)];
            let style = colour(mark.colour).mix(0.12).filled();
            chart.draw_series([Rectangle::new(corners, style)]).map_err(drawing)?;
        }
        for mark in marks {
            let path =
                PathElement::new([(mark.to, up.from), (mark.to, up.to)], colour(mark.colour));
            chart.draw_series([path]).map_err(drawing)?;
        }
        for line in lines {
            let path = line.points.clone();
            let style = colour(line.colour).stroke_width(line.width);
            chart.draw_series([PathElement::new(path.clone(), style)]).map_err(drawing)?;
            if line.has_dots {
                let dots =
                    path.into_iter().map(|at| Circle::new(at, 3, colour(line.colour).filled()));
                chart.draw_series(dots).map_err(drawing)?;
            }
        }
        let mut names: Vec<(&str, usize, u32)> =
            lines.iter().map(|line| (&*line.name, line.colour, line.width)).collect();
        names.extend(marks.iter().map(|mark| (&*mark.name, mark.colour, 8)));
        legend(&root, &names)?;
        root.present().map_err(drawing)?;
    }
    Ok(svg)
}

/// Draws a box for each category: quartiles, least and most, and every value as a dot.
///
/// # Errors
/// Those of the drawing.
pub(crate) fn boxes(title: &str, name: &str, groups: &[(String, Vec<f64>)]) -> Result<String> {
    let values = groups.iter().flat_map(|(_, values)| values.iter().copied());
    let up = Range::new(Scale::Linear, values.chain([0.0]));
    let across = Range::categories(groups.len());
    let mut svg = String::new();
    {
        let root = root(&mut svg)?;
        let mut chart = begin(&root, title, [("", &across), (name, &up)])?;
        for (index, (_, values)) in groups.iter().enumerate() {
            let Some([least, quarter, half, most_of, most]) = quartiles(values) else { continue };
            let (middle, style) = (float(index as u64), colour(index));
            let corners = [(middle - 0.25, quarter), (middle + 0.25, most_of)];
            chart
                .draw_series([Rectangle::new(corners, style.mix(0.25).filled())])
                .map_err(drawing)?;
            for path in [
                [(middle, least), (middle, quarter)],
                [(middle, most_of), (middle, most)],
                [(middle - 0.25, half), (middle + 0.25, half)],
                [(middle - 0.1, least), (middle + 0.1, least)],
                [(middle - 0.1, most), (middle + 0.1, most)],
            ] {
                let path = PathElement::new(path, style.stroke_width(2));
                chart.draw_series([path]).map_err(drawing)?;
            }
            let dots = values.iter().map(|value| Circle::new((middle, *value), 3, style.filled()));
            chart.draw_series(dots).map_err(drawing)?;
        }
        let names = groups.iter().enumerate();
        let names: Vec<_> =
            names.map(|(at, (name, _))| (format!("{}: {name}", at + 1), at, 8)).collect();
        legend(
            &root,
            &names.iter().map(|(name, at, width)| (&**name, *at, *width)).collect::<Vec<_>>(),
        )?;
        root.present().map_err(drawing)?;
    }
    Ok(svg)
}

/// Draws bars with their deviations, those of a category side by side.
///
/// # Errors
/// Those of the drawing.
pub(crate) fn bars(
    title: &str,
    name: &str,
    categories: &[String],
    series: &[Bars],
) -> Result<String> {
    let all = series.iter().flat_map(|bars| bars.values.iter().flatten());
    let up = Range::new(Scale::Linear, all.map(|bar| bar.mean + bar.deviation).chain([0.0]));
    let across = Range::categories(categories.len());
    let mut svg = String::new();
    {
        let root = root(&mut svg)?;
        let mut chart = begin(&root, title, [("", &across), (name, &up)])?;
        let width = 0.7 / float(series.len().max(1) as u64);
        for (index, bars) in series.iter().enumerate() {
            for (category, bar) in bars.values.iter().enumerate() {
                let Some(Spread { mean, deviation }) = *bar else { continue };
                let left = float(category as u64) - 0.35 + width * float(index as u64);
                let corners = [(left, 0.0), (left + width * 0.9, mean)];
                let style = colour(index);
                chart.draw_series([Rectangle::new(corners, style.filled())]).map_err(drawing)?;
                let middle = left + width * 0.45;
                let path = [(middle, (mean - deviation).max(0.0)), (middle, mean + deviation)];
                let path = PathElement::new(path, BLACK.stroke_width(2));
                chart.draw_series([path]).map_err(drawing)?;
            }
        }
        let mut names: Vec<(String, usize, u32)> = Vec::new();
        names.extend(series.iter().enumerate().map(|(at, bars)| (bars.name.clone(), at, 8)));
        let categories = categories.iter().enumerate();
        names.extend(categories.map(|(at, name)| (format!("{}: {name}", at + 1), 0, 0)));
        legend(
            &root,
            &names.iter().map(|(name, at, width)| (&**name, *at, *width)).collect::<Vec<_>>(),
        )?;
        root.present().map_err(drawing)?;
    }
    Ok(svg)
}

fn root(svg: &mut String) -> Result<Area<'_>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    Ok(root)
}

fn begin<'a, 'b>(
    root: &'a Area<'b>,
    title: &str,
    [(x_name, x), (y_name, y)]: [(&str, &Range); 2],
) -> Result<Chart<'a, 'b>> {
    let (left, _) = root.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let mut chart = ChartBuilder::on(&left)
        .caption(title, (FONT, 17))
        .margin(10)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .axis_desc_style((FONT, 14))
        .label_style((FONT, 12))
        .x_desc(x_name)
        .y_desc(y_name)
        .draw()
        .map_err(drawing)?;
    Ok(chart)
}

/// Names beside the chart, each once, with a stroke in their colour.
fn legend(root: &Area<'_>, names: &[(&str, usize, u32)]) -> Result<()> {
    let left = i32::try_from(SIZE.0 - LEGEND_WIDTH).expect("invariant: small");
    let mut top = 50;
    let mut seen = Vec::new();
    for (name, index, width) in names {
        if name.is_empty() || seen.contains(name) {
            continue;
        }
        seen.push(*name);
        let path =
            PathElement::new([(left, top), (left + 22, top)], colour(*index).stroke_width(*width));
        if *width > 0 {
            root.draw(&path).map_err(drawing)?;
        }
        let shown: String = name.chars().take(LEGEND_CHARS_MAX).collect();
        root.draw(&Text::new(shown, (left + 28, top - 6), (FONT, 12))).map_err(drawing)?;
        top += LEGEND_LINE;
    }
    Ok(())
}

/// The values of an axis, and those at which it has a line and a label.
#[derive(Debug, Clone)]
struct Range {
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    /// Ticks are the numbers of categories, which the legend names.
    is_numbered: bool,
}

impl Range {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Range {
        let values = values.filter(|value| value.is_finite());
        let usable = values.filter(|value| scale == Scale::Linear || *value > 0.0);
        let values: Vec<f64> = usable.collect();
        let least = values.iter().copied().min_by(f64::total_cmp);
        let most = values.iter().copied().max_by(f64::total_cmp);
        match scale {
            Scale::Linear => Range::linear(least.unwrap_or(0.0).min(0.0), most.unwrap_or(1.0)),
            Scale::Logarithmic => Range::logarithmic(least.unwrap_or(1.0), most.unwrap_or(10.0)),
        }
    }

    fn linear(from: f64, most: f64) -> Range {
        let step = step(if most > from { most - from } else { 1.0 });
        // The last tick is at the highest value or above.
        let to = ((most / step - 1e-9).ceil() * step).max(from + step);
        let ticks = ticks(from, to, step);
        Range { scale: Scale::Linear, from, to, ticks, is_numbered: false }
    }

    fn logarithmic(least: f64, most: f64) -> Range {
        let (from, to) = (least / 1.1, most.max(least * 2.0) * 1.1);
        let parts = if to / from < 1000.0 { &[1.0, 2.0, 5.0][..] } else { &[1.0] };
        let decades = (-9..12).map(|decade| 10_f64.powi(decade));
        let ticks = decades.flat_map(|decade| parts.iter().map(move |part: &f64| decade * part));
        let ticks = ticks.filter(|tick| (from..=to).contains(tick)).collect();
        Range { scale: Scale::Logarithmic, from, to, ticks, is_numbered: false }
    }

    fn categories(count: usize) -> Range {
        let to = float(count.max(1) as u64) - 0.5;
        let ticks = ticks(0.0, to, 1.0);
        Range { scale: Scale::Linear, from: -0.5, to, ticks, is_numbered: true }
    }
}

impl Ranged for Range {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    /// Values beyond the axis lie at its end.
    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let place = |value: f64| self.scale.place(value.clamp(self.from, self.to));
        let share = (place(*value) - place(self.from)) / (place(self.to) - place(self.from));
        let share = if share.is_finite() { share } else { 0.0 };
        low + whole(share * f64::from(high - low))
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Range {
    fn format_ext(&self, value: &f64) -> String {
        if self.is_numbered { format!("{:.0}", value + 1.0) } else { shown(*value) }
    }
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10(),
        }
    }
}

/// A round step that gives about [`TICK_COUNT`] ticks.
fn step(length: f64) -> f64 {
    let raw = length / TICK_COUNT;
    let decade = 10_f64.powf(raw.log10().floor());
    let part = [1.0, 2.0, 5.0].into_iter().find(|part| part * decade >= raw);
    part.unwrap_or(10.0) * decade
}

fn ticks(from: f64, to: f64, step: f64) -> Vec<f64> {
    let first = (from / step).ceil();
    let steps = (0..1000_u32).map(|index| (first + f64::from(index)) * step);
    steps.take_while(|tick| *tick <= to + step * 1e-6).collect()
}

/// A number of three digits or so.
pub(crate) fn shown(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[expect(clippy::cast_possible_truncation, reason = "pixels; saturates")]
fn whole(number: f64) -> i32 {
    number.round() as i32
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// An error that may name what is borrowed.
fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)]) -> Line {
        let name = "a < b".to_owned();
        Line { name, colour: 0, width: 2, points: points.to_vec(), has_dots: true }
    }

    #[test]
    fn a_chart_is_one_svg_with_its_names() {
        let x = Axis { name: "clients", scale: Scale::Logarithmic };
        let y = Axis { name: "per second", scale: Scale::Linear };
        let mark = Mark { name: "checkpoint".to_owned(), colour: 1, from: 2.0, to: 3.0 };
        let svg = lines("title", [x, y], &[line(&[(1.0, 5.0), (64.0, 900.0)])], &[mark]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for words in ["title", "clients", "per second", "a &lt; b", "checkpoint"] {
            assert!(svg.contains(words), "{words}: {svg}");
        }
    }

    #[test]
    fn nothing_to_show_and_values_that_are_no_place_are_drawn_all_the_same() {
        let x = Axis { name: "x", scale: Scale::Logarithmic };
        for points in [&[][..], &[(0.0, 0.0)], &[(f64::NAN, 1.0)], &[(1.0, f64::INFINITY)]] {
            assert!(lines("t", [x, x], &[line(points)], &[]).unwrap().contains("</svg>"));
        }
        assert!(boxes("t", "y", &[]).unwrap().contains("</svg>"));
        assert!(boxes("t", "y", &[("a".to_owned(), vec![])]).unwrap().contains("</svg>"));
        assert!(bars("t", "y", &[], &[]).unwrap().contains("</svg>"));
    }

    #[test]
    fn ticks_are_round() {
        let linear = Range::new(Scale::Linear, [0.0, 41_000.0].into_iter());
        assert_eq!(linear.ticks, [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0]);
        let log = Range::new(Scale::Logarithmic, [0.1, 12.0].into_iter());
        let labels: Vec<String> = log.ticks.iter().map(|tick| log.format_ext(tick)).collect();
        assert_eq!(labels, ["0.1", "0.2", "0.5", "1", "2", "5", "10"]);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (5.5, "5.5"),
            (1.314, "1.31"),
            (120.0, "120"),
            (41_000.0, "41k"),
            (1_500_000.0, "1.5M"),
        ] {
            assert_eq!(shown(value), text);
        }
    }
}
