//! Rows with their names before them, and in each every measurement as a point: with the line from least
//! to most, a stroke at the median, and the number of points. For categories of any kind.

use super::axis::Axis;
use super::panels::{legend, legend_height};
use super::svg::{Anchor, Canvas, Font, INK, PALE, Spot, Stroke, colour, width_of};
use crate::statistics::{Summary, fixed, float};

const WIDTH: f64 = 860.0;
const LINE_HEIGHT: f64 = 19.0;
const ROW_GAP: f64 = 9.0;
const TITLE_HEIGHT: f64 = 38.0;
const FOOT: f64 = 46.0;
const NAME_SIZE: f64 = 12.0;
const NAMES_WIDTH_MAX: f64 = 380.0;
const COUNTS_WIDTH: f64 = 56.0;

/// Measurements of one series in a row.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) series: usize,
    pub(crate) values: Vec<f64>,
}

/// A category.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

/// A picture of rows.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) title: String,
    pub(crate) x: Axis,
    /// A line at this value, which others are compared with.
    pub(crate) reference: Option<f64>,
    pub(crate) rows: Vec<Row>,
    /// Names of series, if there are several.
    pub(crate) legend: Vec<(usize, String)>,
}

impl Rows {
    pub(crate) fn draw(&self) -> String {
        let widths = self.rows.iter().map(|row| width_of(&row.name, NAME_SIZE));
        let left = widths.fold(60.0, f64::max).min(NAMES_WIDTH_MAX) + 26.0;
        let right = WIDTH - COUNTS_WIDTH - 14.0;
        let top = TITLE_HEIGHT + legend_height(&self.legend);
        let heights: Vec<f64> = self.rows.iter().map(height_of).collect();
        let low = top + heights.iter().sum::<f64>();
        let mut canvas = Canvas::new(WIDTH, low + FOOT);
        canvas.text("title", Spot::new(14.0, 22.0), Font::new(15.0, Anchor::Start), &self.title);
        legend(&mut canvas, TITLE_HEIGHT - 4.0, &self.legend);
        self.draw_axis(&mut canvas, [Spot::new(left, top), Spot::new(right, low)]);
        let mut y = top;
        for (row, height) in self.rows.iter().zip(heights) {
            let at = Spot::new(left - 12.0, y + height / 2.0 + 4.0);
            canvas.text("category", at, Font::new(NAME_SIZE, Anchor::End), &row.name);
            for (sample, line) in row.samples.iter().zip(0_u64..) {
                let middle = y + ROW_GAP / 2.0 + LINE_HEIGHT * (float(line) + 0.5);
                self.draw_sample(&mut canvas, [left, right, middle], sample);
            }
            y += height;
            let pale = Stroke { colour: PALE, width: 0.6 };
            canvas.line("grid", [Spot::new(left, y), Spot::new(right, y)], pale);
        }
        canvas.finish()
    }

    fn draw_axis(&self, canvas: &mut Canvas, [upper, lower]: [Spot; 2]) {
        let x = |value| Some(upper.x + self.x.place(value)? * (lower.x - upper.x));
        let line = |canvas: &mut Canvas, class, x, stroke| {
            canvas.line(class, [Spot::new(x, upper.y), Spot::new(x, lower.y)], stroke);
        };
        let mut end = f64::NEG_INFINITY;
        for tick in &self.x.ticks {
            let Some(x) = x(tick.value) else { continue };
            line(canvas, "grid", x, Stroke { colour: PALE, width: 1.0 });
            let half = width_of(&tick.label, 11.0) / 2.0;
            if x - half > end + 6.0 {
                end = x + half;
                let at = Spot::new(x, lower.y + 16.0);
                canvas.text("tick", at, Font::new(11.0, Anchor::Middle), &tick.label);
            }
        }
        if let Some(x) = self.reference.and_then(x) {
            line(canvas, "reference", x, Stroke { colour: INK, width: 1.4 });
        }
        let ink = Stroke { colour: INK, width: 1.0 };
        canvas.line("frame", [Spot::new(upper.x, lower.y), lower], ink);
        let at = Spot::new(f64::midpoint(upper.x, lower.x), lower.y + 36.0);
        canvas.text("axis", at, Font::new(12.0, Anchor::Middle), &self.x.name);
    }

    fn draw_sample(&self, canvas: &mut Canvas, [left, right, y]: [f64; 3], sample: &Sample) {
        let spot = |value| Some(Spot::new(left + self.x.place(value)? * (right - left), y));
        let Some(summary) = Summary::of(&sample.values) else { return };
        let colour = colour(sample.series);
        if let ([Some(from), Some(to)], true) =
            ([summary.least, summary.most].map(spot), summary.count > 1)
        {
            canvas.line("range", [from, to], Stroke { colour, width: 1.4 });
        }
        for value in &sample.values {
            if let Some(at) = spot(*value) {
                canvas.marker("point", sample.series, at, &fixed(*value, 1));
            }
        }
        if let (Some(Spot { x, y }), true) = (spot(summary.median), summary.count > 1) {
            let ends = [Spot::new(x, y - 7.0), Spot::new(x, y + 7.0)];
            canvas.line("median", ends, Stroke { colour: INK, width: 2.0 });
        }
        let words = format!("n = {}", summary.count);
        canvas.text(
            "count",
            Spot::new(right + 14.0, y + 4.0),
            Font::new(11.0, Anchor::Start),
            &words,
        );
    }
}

fn height_of(row: &Row) -> f64 {
    LINE_HEIGHT * float(row.samples.len().max(1) as u64) + ROW_GAP
}
