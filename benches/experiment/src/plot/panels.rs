//! Panels side by side over the same two axes: points, the lines through them, and spans of time.

use super::axis::Axis;
use super::svg::{Anchor, Canvas, Font, INK, PALE, Spot, Stroke, colour, width_of};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 24.0;
const GAP: f64 = 28.0;
const TITLE_HEIGHT: f64 = 34.0;
const PANEL_TITLE_HEIGHT: f64 = 22.0;
const FOOT: f64 = 48.0;
const LEGEND_LINE: f64 = 19.0;
const LABEL_SIZE: f64 = 10.5;
/// Ticks whose labels would lie closer have none.
const LABEL_GAP: f64 = 6.0;
/// From a point to its label.
const REACH: f64 = 7.0;
const SPAN_OPACITY: f64 = 0.16;

/// What is measured once, or several times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Least and greatest of what the point stands for, if it is several measurements.
    pub(crate) ranges: Option<[[f64; 2]; 2]>,
    /// Stands beside the point.
    pub(crate) label: String,
    /// Shown where the pointer rests on the point.
    pub(crate) words: String,
}

/// How the points of a curve belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// Markers with a line from each to the next.
    Line,
    /// A thin line alone, which stays at the height of a point until the next one.
    Steps,
    /// A value for each second, which lies in the middle of it.
    Seconds,
}

/// Points of one series.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) series: usize,
    pub(crate) join: Join,
    pub(crate) points: Vec<Point>,
}

/// Something that took a while, or none.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) series: usize,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// One panel.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) curves: Vec<Curve>,
    pub(crate) spans: Vec<Span>,
}

/// A picture of panels.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) columns: usize,
    /// Of what is inside a panel's frame.
    pub(crate) panel_height: f64,
    pub(crate) panels: Vec<Panel>,
    /// Names of series, by their numbers.
    pub(crate) legend: Vec<(usize, String)>,
}

/// Where a panel is: the corners of its frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Frame {
    fn spot(&self, grid: &Grid, x: f64, y: f64) -> Option<Spot> {
        let (across, up) = (grid.x.place(x)?, grid.y.place(y)?);
        let (left, low) = (self.left + across * self.width, self.top + self.height);
        Some(Spot::new(left, low - up * self.height))
    }
}

impl Grid {
    pub(crate) fn draw(&self) -> String {
        let columns = self.columns.min(self.panels.len()).max(1);
        let row_count = self.panels.len().div_ceil(columns);
        let legend = legend_rows(&self.legend);
        let head = TITLE_HEIGHT + LEGEND_LINE * count(legend.len());
        let row_height = PANEL_TITLE_HEIGHT + self.panel_height;
        let foot = FOOT - 18.0;
        let height = head + count(row_count) * (row_height + foot) + FOOT - foot;
        let mut canvas = Canvas::new(WIDTH, height);
        canvas.text("title", Spot::new(14.0, 22.0), Font::new(15.0, Anchor::Start), &self.title);
        for (row, names) in legend.iter().enumerate() {
            draw_legend(&mut canvas, TITLE_HEIGHT + LEGEND_LINE * count(row), names);
        }
        let gaps = GAP * count(columns - 1);
        let width = (WIDTH - LEFT - RIGHT - gaps) / count(columns);
        for (at, panel) in self.panels.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let frame = Frame {
                left: LEFT + count(column) * (width + GAP),
                top: head + count(row) * (row_height + foot) + PANEL_TITLE_HEIGHT,
                width,
                height: self.panel_height,
            };
            let is_last = at + columns >= self.panels.len();
            self.draw_axes(&mut canvas, frame, [column == 0, is_last]);
            self.draw_panel(&mut canvas, frame, panel);
        }
        canvas.finish()
    }

    /// The lines of an axis are in every panel, its labels beside the first and below the last ones.
    fn draw_axes(&self, canvas: &mut Canvas, frame: Frame, [is_first, is_last]: [bool; 2]) {
        let Frame { left, top, width, height } = frame;
        let (right, low) = (left + width, top + height);
        let pale = Stroke { colour: PALE, width: 1.0 };
        for tick in &self.y.ticks {
            let Some(place) = self.y.place(tick.value) else { continue };
            let y = low - place * height;
            canvas.line("grid", [Spot::new(left, y), Spot::new(right, y)], pale);
            if is_first {
                let at = Spot::new(left - 7.0, y + 4.0);
                canvas.text("tick", at, Font::new(11.0, Anchor::End), &tick.label);
            }
        }
        let mut end = f64::NEG_INFINITY;
        for tick in &self.x.ticks {
            let Some(place) = self.x.place(tick.value) else { continue };
            let x = left + place * width;
            canvas.line("grid", [Spot::new(x, top), Spot::new(x, low)], pale);
            // The label at the right edge keeps out of the panel beside.
            let half = width_of(&tick.label, 11.0) / 2.0;
            let middle = x.min(right + LABEL_GAP - half);
            if middle - half > end + LABEL_GAP {
                end = middle + half;
                let at = Spot::new(middle, low + 16.0);
                canvas.text("tick", at, Font::new(11.0, Anchor::Middle), &tick.label);
            }
        }
        let ink = Stroke { colour: INK, width: 1.0 };
        canvas.line("frame", [Spot::new(left, low), Spot::new(right, low)], ink);
        canvas.line("frame", [Spot::new(left, top), Spot::new(left, low)], ink);
        if is_last {
            let at = Spot::new(left + width / 2.0, low + 36.0);
            canvas.text("axis", at, Font::new(12.0, Anchor::Middle), &self.x.name);
        }
        if is_first {
            let at = Spot::new(16.0, top + height / 2.0);
            canvas.text_up(at, Font::new(12.0, Anchor::Middle), &self.y.name);
        }
    }

    fn draw_panel(&self, canvas: &mut Canvas, frame: Frame, panel: &Panel) {
        let Frame { left, top, width, height } = frame;
        let at = Spot::new(left, top - 7.0);
        canvas.text("panel", at, Font::new(12.5, Anchor::Start), &panel.title);
        for span in &panel.spans {
            let Some([from, to]) = self.x.cut([span.from, span.to]) else { continue };
            let Some((from, to)) = self.x.place(from).zip(self.x.place(to)) else { continue };
            let (from, to) = (left + from * width, left + to * width);
            let corners = [Spot::new(from, top), Spot::new(to, top + height)];
            canvas.faint("span", corners, colour(span.series), SPAN_OPACITY);
            let line = Stroke { colour: colour(span.series), width: 1.0 };
            canvas.line("span", [Spot::new(to, top), Spot::new(to, top + height)], line);
        }
        let mut labels = Labels::default();
        for curve in &panel.curves {
            self.draw_curve(canvas, frame, curve);
            if curve.join == Join::Line {
                let spots = curve.points.iter().filter_map(|at| frame.spot(self, at.x, at.y));
                labels.taken.extend(spots.map(|spot| Rectangle::around(spot, 4.0)));
            }
        }
        for curve in &panel.curves {
            for point in curve.points.iter().filter(|point| !point.label.is_empty()) {
                if let Some(spot) = frame.spot(self, point.x, point.y) {
                    labels.draw(canvas, spot, &point.label, curve.series);
                }
            }
        }
    }

    fn draw_curve(&self, canvas: &mut Canvas, frame: Frame, curve: &Curve) {
        let series = colour(curve.series);
        let spots = |points: &[Point]| -> Vec<Spot> {
            points.iter().filter_map(|point| frame.spot(self, point.x, point.y)).collect()
        };
        match curve.join {
            Join::Steps => {
                let next = curve.points.iter().skip(1);
                let corners = curve.points.iter().zip(next).flat_map(|(point, next)| {
                    let corner = Point { x: next.x, y: point.y, ..Point::default() };
                    [corner, next.clone()]
                });
                let points: Vec<Point> =
                    curve.points.first().cloned().into_iter().chain(corners).collect();
                canvas.path("curve", &spots(&points), Stroke { colour: series, width: 1.2 });
            }
            Join::Seconds => {
                let ends = curve.points.iter().flat_map(|point| {
                    [-0.5, 0.5].map(|half| Point {
                        x: point.x + half,
                        y: point.y,
                        ..Point::default()
                    })
                });
                let ends: Vec<Point> = ends.collect();
                canvas.path("curve", &spots(&ends), Stroke { colour: series, width: 1.4 });
            }
            Join::Line => {
                canvas.path("curve", &spots(&curve.points), Stroke { colour: series, width: 1.4 });
                for point in &curve.points {
                    let Some(spot) = frame.spot(self, point.x, point.y) else { continue };
                    let thin = Stroke { colour: series, width: 1.2 };
                    let [x, y] = point.ranges.unwrap_or([[point.x; 2], [point.y; 2]]);
                    for ends in [x.map(|x| (x, point.y)), y.map(|y| (point.x, y))] {
                        let ends = ends.map(|(x, y)| frame.spot(self, x, y));
                        if let ([Some(from), Some(to)], true) = (ends, point.ranges.is_some()) {
                            canvas.line("range", [from, to], thin);
                        }
                    }
                    canvas.marker("point", curve.series, spot, &point.words);
                }
            }
        }
    }
}

fn count(number: usize) -> f64 {
    crate::statistics::float(number as u64)
}

/// Names of a legend, row by row, as many in each as there is room for.
fn legend_rows(legend: &[(usize, String)]) -> Vec<Vec<(usize, &str)>> {
    let mut rows: Vec<Vec<(usize, &str)>> = Vec::new();
    let mut end = f64::INFINITY;
    for (series, name) in legend {
        let width = width_of(name, 12.0) + 44.0;
        if end + width > WIDTH - 14.0 {
            rows.push(Vec::new());
            end = 14.0;
        }
        end += width;
        rows.last_mut().expect("invariant: a row was begun").push((*series, name));
    }
    rows
}

fn draw_legend(canvas: &mut Canvas, top: f64, names: &[(usize, &str)]) {
    let mut left = 20.0;
    for (series, name) in names {
        canvas.marker("legend", *series, Spot::new(left, top + 4.0), name);
        let at = Spot::new(left + 10.0, top + 8.0);
        canvas.text("legend", at, Font::new(12.0, Anchor::Start), name);
        left += width_of(name, 12.0) + 44.0;
    }
}

/// A legend over another kind of picture, from `top` on: how high it is.
pub(super) fn legend(canvas: &mut Canvas, top: f64, names: &[(usize, String)]) -> f64 {
    let rows = legend_rows(names);
    for (row, names) in rows.iter().enumerate() {
        draw_legend(canvas, top + LEGEND_LINE * count(row), names);
    }
    LEGEND_LINE * count(rows.len())
}

/// How high a legend will be.
pub(super) fn legend_height(names: &[(usize, String)]) -> f64 {
    LEGEND_LINE * count(legend_rows(names).len())
}

#[derive(Debug, Clone, Copy)]
struct Rectangle {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Rectangle {
    fn around(spot: Spot, reach: f64) -> Rectangle {
        let Spot { x, y } = spot;
        Rectangle { left: x - reach, top: y - reach, right: x + reach, bottom: y + reach }
    }

    /// The area that two rectangles share.
    fn shared(&self, other: &Rectangle) -> f64 {
        let across = self.right.min(other.right) - self.left.max(other.left);
        let down = self.bottom.min(other.bottom) - self.top.max(other.top);
        across.max(0.0) * down.max(0.0)
    }
}

/// Places labels beside points, where least lies under them.
#[derive(Debug, Default)]
struct Labels {
    taken: Vec<Rectangle>,
}

impl Labels {
    fn draw(&mut self, canvas: &mut Canvas, spot: Spot, words: &str, series: usize) {
        let (width, height) = (width_of(words, LABEL_SIZE), LABEL_SIZE);
        let at = |across: f64, down: f64| {
            let (left, top) = (
                spot.x + across * (REACH + width / 2.0) - width / 2.0,
                spot.y + down * (REACH + height / 2.0) - height / 2.0,
            );
            Rectangle { left, top, right: left + width, bottom: top + height }
        };
        let places = [
            at(0.9, 0.6),
            at(0.9, -0.6),
            at(1.0, 0.0),
            at(0.0, -1.0),
            at(0.0, 1.0),
            at(-0.9, -0.6),
            at(-0.9, 0.6),
            at(-1.0, 0.0),
        ];
        let hidden = |place: &Rectangle| -> f64 {
            self.taken.iter().map(|taken| taken.shared(place)).sum::<f64>()
        };
        let best = places.into_iter().min_by(|one, other| hidden(one).total_cmp(&hidden(other)));
        let best = best.expect("invariant: there are places");
        let font = Font { size: LABEL_SIZE, anchor: Anchor::Start, colour: colour(series) };
        canvas.text("label", Spot::new(best.left, best.bottom - 1.5), font, words);
        self.taken.push(best);
    }
}
