//! An axis: from where to where, and which values have a line and a label.
//!
//! - I1: a value has its own place or none: nothing is moved to the end of an axis.
//! - I2: both ends of an axis that follows from values are ticks.

use crate::statistics::{fixed, float};

const TICK_COUNT: f64 = 6.0;
/// A step may be so much shorter than [`TICK_COUNT`] says.
const STEP_SLACK: f64 = 0.9;
const TICK_COUNT_MAX: u32 = 1000;
const TICK_DECIMALS_MAX: usize = 9;
/// A logarithmic axis that is longer has ticks at powers of ten alone.
const FINE_DECADES_MAX: f64 = 2.5;
const DECADES: std::ops::RangeInclusive<i32> = -9..=12;

/// How values are spread over an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
}

/// A value that is labelled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    pub(crate) value: f64,
    pub(crate) label: String,
}

/// An axis.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub(crate) name: String,
    scale: Scale,
    from: f64,
    to: f64,
    pub(crate) ticks: Vec<Tick>,
}

impl Axis {
    /// From 0 to the greatest of some values, or above.
    pub(crate) fn from_zero(name: &str, values: impl Iterator<Item = f64>) -> Axis {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let step = step(most);
        Axis::linear(name, 0.0, (most / step - 1e-9).ceil() * step)
    }

    /// From one value to another.
    pub(crate) fn linear(name: &str, from: f64, to: f64) -> Axis {
        let step = step(to - from);
        let first = (from / step - 1e-9).ceil();
        let values = (0..TICK_COUNT_MAX).map(|index| (first + f64::from(index)) * step);
        let values: Vec<f64> = values.take_while(|tick| *tick <= to + step * 1e-6).collect();
        let ticks = values.iter().map(|value| (*value, fixed(*value, fraction(step))));
        Axis::new(name, Scale::Linear, [from, to], ticks)
    }

    /// A logarithm, around all values above 0.
    pub(crate) fn logarithmic(name: &str, values: impl Iterator<Item = f64>) -> Axis {
        let values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
        let least = values.iter().copied().min_by(f64::total_cmp).unwrap_or(1.0);
        let most = values.iter().copied().max_by(f64::total_cmp).unwrap_or(10.0);
        let is_fine = (most / least).log10() <= FINE_DECADES_MAX;
        let parts = if is_fine { &[1.0, 2.0, 5.0][..] } else { &[1.0] };
        let round =
            || DECADES.flat_map(|decade| parts.iter().map(move |part| 10_f64.powi(decade) * part));
        let from = round().take_while(|tick| *tick <= least * (1.0 + 1e-9)).last().unwrap_or(least);
        let to = round().find(|tick| *tick >= most * (1.0 - 1e-9) && *tick > from * 1.5);
        let to = to.unwrap_or(most);
        let inside = (from * 0.999)..=(to * 1.001);
        let ticks = round().filter(|tick| inside.contains(tick));
        let ticks = ticks.map(|tick| (tick, fixed(tick, fraction(tick))));
        Axis::new(name, Scale::Logarithmic, [from, to], ticks)
    }

    /// A logarithm with a tick at every one of some values, which are counts.
    pub(crate) fn of_counts(name: &str, counts: &[u64]) -> Axis {
        let least = float(counts.iter().copied().min().unwrap_or(1).max(1));
        let most = float(counts.iter().copied().max().unwrap_or(1).max(1));
        let ticks = counts.iter().map(|count| (float(*count), fixed(float(*count), 0)));
        Axis::new(name, Scale::Logarithmic, [least / 1.2, most * 1.2], ticks)
    }

    /// Shares that lie above a percentile, from all down to the least one, by powers of ten.
    pub(crate) fn of_tails(name: &str, least: f64) -> Axis {
        let decades: Vec<i32> =
            (0..=9).take_while(|at| 10_f64.powi(1 - at) > least * 1.001).collect();
        let decades = if decades.len() < 2 { vec![0, 1] } else { decades };
        let label = |decade: i32| match decade {
            0 => "1".to_owned(),
            1 => "0.1 (p90)".to_owned(),
            2 => "0.01 (p99)".to_owned(),
            3 => "0.001 (p99.9)".to_owned(),
            decade => format!("1e-{decade}"),
        };
        let to = 10_f64.powi(-decades[decades.len() - 1]);
        let ticks = decades.iter().map(|at| (10_f64.powi(-at), label(*at)));
        Axis::new(name, Scale::Logarithmic, [to, 1.0], ticks)
    }

    fn new(
        name: &str,
        scale: Scale,
        [from, to]: [f64; 2],
        ticks: impl Iterator<Item = (f64, String)>,
    ) -> Axis {
        let ticks = ticks.map(|(value, label)| Tick { value, label }).collect();
        Axis { name: name.to_owned(), scale, from, to, ticks }
    }

    /// Where a value lies, from 0 at the beginning to 1 at the end; none if it lies beyond. // I1
    pub(crate) fn place(&self, value: f64) -> Option<f64> {
        let place = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10(),
        };
        let share = (place(value) - place(self.from)) / (place(self.to) - place(self.from));
        (-1e-9..=1.0 + 1e-9).contains(&share).then_some(share)
    }

    /// The part of a stretch that lies on the axis.
    pub(crate) fn cut(&self, [from, to]: [f64; 2]) -> Option<[f64; 2]> {
        let (from, to) = (from.max(self.from), to.min(self.to));
        (from <= to).then_some([from, to])
    }
}

/// Decimals that a tick of one digit needs.
fn fraction(tick: f64) -> usize {
    let mut digits = 0;
    let mut scaled = tick;
    while scaled < 0.999 && digits < TICK_DECIMALS_MAX {
        (digits, scaled) = (digits + 1, scaled * 10.0);
    }
    digits
}

/// A round step that gives about [`TICK_COUNT`] ticks.
fn step(length: f64) -> f64 {
    let raw = length / TICK_COUNT;
    let decade = 10_f64.powf(raw.log10().floor());
    let part = [1.0, 2.0, 5.0].into_iter().find(|part| part * decade >= raw * STEP_SLACK);
    part.unwrap_or(10.0) * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| &*tick.label).collect()
    }

    #[test]
    fn ticks_are_round_and_their_digits_agree() {
        let linear = Axis::from_zero("x", [0.0, 41_000.0].into_iter());
        assert_eq!(labels(&linear), ["0", "10,000", "20,000", "30,000", "40,000", "50,000"]);
        let small = Axis::linear("x", -0.5, 1.0);
        assert_eq!(labels(&small), ["-0.5", "0.0", "0.5", "1.0"]);
        let log = Axis::logarithmic("x", [0.3, 12.0].into_iter());
        assert_eq!(labels(&log), ["0.2", "0.5", "1", "2", "5", "10", "20"]);
        let long = Axis::logarithmic("x", [0.3, 1_200.0].into_iter());
        assert_eq!(labels(&long), ["0.1", "1", "10", "100", "1,000", "10,000"]);
        assert_eq!(labels(&Axis::of_counts("x", &[1, 16, 64])), ["1", "16", "64"]);
        let tails = Axis::of_tails("x", 0.000_4);
        assert_eq!(labels(&tails), ["1", "0.1 (p90)", "0.01 (p99)", "0.001 (p99.9)", "1e-4"]);
    }

    #[test]
    fn every_value_of_an_axis_is_on_it_and_what_is_beyond_has_no_place() {
        for values in [&[3.1, 3.2][..], &[1.0], &[0.000_2, 80_000.0], &[5.0, 5.0]] {
            let axis = Axis::logarithmic("x", values.iter().copied());
            assert!(values.iter().all(|value| axis.place(*value).is_some()), "{axis:?}");
            assert!(axis.ticks.len() >= 2, "{axis:?}");
            assert_eq!(axis.place(0.0), None, "a logarithm of nothing");
        }
        let axis = Axis::linear("x", 0.0, 4.0);
        assert_eq!(axis.place(2.0), Some(0.5));
        assert_eq!((axis.place(4.1), axis.place(f64::NAN)), (None, None));
        assert_eq!(axis.cut([-1.0, 3.0]), Some([0.0, 3.0]));
        assert_eq!(axis.cut([5.0, 6.0]), None);
        let empty = Axis::from_zero("x", std::iter::empty());
        assert!(empty.ticks.len() >= 2);
    }
}
