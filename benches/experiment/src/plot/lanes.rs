//! Lanes over one axis of time, one for each run: how much was done in each short while, and what was going
//! on meanwhile.

use super::axis::Axis;
use super::panels::{Span, legend, legend_height};
use super::svg::{Anchor, Canvas, Font, INK, PALE, Spot, Stroke, colour, width_of};
use crate::statistics::fixed;

const WIDTH: f64 = 860.0;
const LANE_HEIGHT: f64 = 40.0;
/// Between the bars of a lane and the lane above.
const LANE_GAP: f64 = 7.0;
const TITLE_HEIGHT: f64 = 38.0;
const FOOT: f64 = 46.0;
const NOTE_WIDTH: f64 = 92.0;
const SPAN_OPACITY: f64 = 0.28;

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) name: String,
    /// Behind the lane.
    pub(crate) note: String,
    /// When the first count begins.
    pub(crate) begin: f64,
    /// What was done in each while.
    pub(crate) counts: Vec<f64>,
    pub(crate) spans: Vec<Span>,
}

/// A picture of lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) title: String,
    pub(crate) x: Axis,
    /// How long a count was taken for.
    pub(crate) step: f64,
    pub(crate) lanes: Vec<Lane>,
    /// The first series is that of the counts.
    pub(crate) legend: Vec<(usize, String)>,
}

impl Lanes {
    pub(crate) fn draw(&self) -> String {
        let widths = self.lanes.iter().map(|lane| width_of(&lane.name, 12.0));
        let left = widths.fold(50.0, f64::max).min(300.0) + 26.0;
        let right = WIDTH - NOTE_WIDTH;
        let top = TITLE_HEIGHT + legend_height(&self.legend);
        let low = top + LANE_HEIGHT * crate::statistics::float(self.lanes.len() as u64);
        let mut canvas = Canvas::new(WIDTH, low + FOOT);
        canvas.text("title", Spot::new(14.0, 22.0), Font::new(15.0, Anchor::Start), &self.title);
        legend(&mut canvas, TITLE_HEIGHT - 4.0, &self.legend);
        self.draw_axis(&mut canvas, [Spot::new(left, top), Spot::new(right, low)]);
        let most = self
            .lanes
            .iter()
            .flat_map(|lane| self.shown(lane))
            .fold(1.0, |most, (_, count)| f64::max(most, count));
        let mut y = top;
        for lane in &self.lanes {
            y += LANE_HEIGHT;
            self.draw_lane(&mut canvas, [left, right, y], lane, most);
        }
        canvas.finish()
    }

    /// Beginning and height of each bar that lies on the axis as a whole.
    fn shown<'a>(&'a self, lane: &'a Lane) -> impl Iterator<Item = (f64, f64)> + 'a {
        let begins = (0_u32..).map(|at| lane.begin + f64::from(at) * self.step);
        let bars = begins.zip(lane.counts.iter().copied());
        bars.filter(|(from, _)| {
            self.x.place(*from).is_some() && self.x.place(from + self.step).is_some()
        })
    }

    fn draw_lane(&self, canvas: &mut Canvas, [left, right, low]: [f64; 3], lane: &Lane, most: f64) {
        let x = |value| Some(left + self.x.place(value)? * (right - left));
        let high = low - LANE_HEIGHT + LANE_GAP;
        for span in &lane.spans {
            let Some([from, to]) = self.x.cut([span.from, span.to]) else { continue };
            let Some((from, to)) = x(from).zip(x(to)) else { continue };
            let corners = [Spot::new(from, high), Spot::new(to, low)];
            canvas.faint("span", corners, colour(span.series), SPAN_OPACITY);
        }
        for (from, count) in self.shown(lane).filter(|(_, count)| *count > 0.0) {
            let Some((from, to)) = x(from).zip(x(from + self.step)) else { continue };
            let top = low - (low - high) * count / most;
            canvas.area("bar", [Spot::new(from, top), Spot::new(to, low)], colour(0));
        }
        canvas.line(
            "frame",
            [Spot::new(left, low), Spot::new(right, low)],
            Stroke { colour: PALE, width: 1.0 },
        );
        let middle = low - LANE_HEIGHT / 2.0 + 7.0;
        let at = Spot::new(left - 12.0, middle);
        canvas.text("category", at, Font::new(12.0, Anchor::End), &lane.name);
        canvas.text(
            "note",
            Spot::new(right + 8.0, middle),
            Font::new(11.0, Anchor::Start),
            &lane.note,
        );
    }

    fn draw_axis(&self, canvas: &mut Canvas, [upper, lower]: [Spot; 2]) {
        for tick in &self.x.ticks {
            let Some(place) = self.x.place(tick.value) else { continue };
            let x = upper.x + place * (lower.x - upper.x);
            let is_zero = tick.value.abs() < 1e-9;
            let stroke = if is_zero {
                Stroke { colour: INK, width: 1.4 }
            } else {
                Stroke { colour: PALE, width: 1.0 }
            };
            canvas.line("grid", [Spot::new(x, upper.y), Spot::new(x, lower.y)], stroke);
            let at = Spot::new(x, lower.y + 16.0);
            canvas.text("tick", at, Font::new(11.0, Anchor::Middle), &tick.label);
        }
        let at = Spot::new(f64::midpoint(upper.x, lower.x), lower.y + 36.0);
        canvas.text("axis", at, Font::new(12.0, Anchor::Middle), &self.x.name);
    }
}

/// Milliseconds as the note of a lane.
pub(crate) fn milliseconds(time: f64) -> String {
    format!("{} ms", fixed(time, 0))
}
