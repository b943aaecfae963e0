//! Which figures results come to. Each shows what was measured and nothing else: no value is moved to the
//! end of an axis, and nothing is averaged that can be shown.

mod axis;
mod failover;
mod lanes;
mod load;
mod panels;
mod rows;
mod svg;

use crate::result::RunResult;
use crate::statistics::float;
use crate::variants::variants;
use axis::Axis;
use rows::{Row, Rows, Sample};

pub(crate) use load::peaks;
pub(crate) use svg::escaped;

/// A picture, and how to read it.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// Of its file, without folder and ending.
    pub(crate) name: String,
    pub(crate) caption: String,
    pub(crate) svg: String,
}

impl Figure {
    fn new(name: &str, caption: &str, svg: String) -> Figure {
        Figure { name: name.to_owned(), caption: caption.to_owned(), svg }
    }

    pub(crate) fn file(&self) -> String {
        format!("plots/{}.svg", self.name)
    }
}

/// How points in rows are to be read.
const ROWS_CAPTION: &str =
    "Each point is a run, the stroke their median, the line goes from the least to the most.";

/// All figures of an experiment.
pub(crate) fn all(results: &[RunResult]) -> Vec<Figure> {
    let mut figures = Vec::new();
    if results.iter().any(|result| result.failover.is_some()) {
        figures.extend(failover::figures(results));
    }
    if results.iter().any(|result| result.recovery.is_some()) {
        figures.push(recovery(results));
    }
    if results.iter().any(|result| result.load.is_some()) {
        figures.extend(load::figures(results));
    }
    figures
}

fn recovery(results: &[RunResult]) -> Figure {
    let parts = ["transfer", "install", "total"];
    let times = |run: &RunResult, part: usize| -> Option<f64> {
        let recovery = run.recovery.as_ref()?;
        [recovery.transfer_ms, recovery.install_ms, Some(recovery.total_ms)][part]
    };
    let cases = variants(results.iter().filter(|result| result.recovery.is_some()));
    let rows = cases.iter().map(|case| {
        let samples = (0..parts.len()).map(|series| {
            let values = case.runs.iter().filter_map(|run| times(run, series)).collect();
            Sample { series, values }
        });
        let samples = samples.filter(|sample: &Sample| !sample.values.is_empty()).collect();
        Row { name: case.name.clone(), samples }
    });
    let rows: Vec<Row> = rows.collect();
    let picture = Rows {
        title: "Time until the state is back".to_owned(),
        x: Axis::logarithmic("milliseconds (logarithmic)", values_of(&rows)),
        reference: None,
        rows,
        legend: parts.into_iter().map(str::to_owned).enumerate().collect(),
    };
    let caption = format!(
        "{ROWS_CAPTION} Transfer and installation are told apart only where program recovery does the work."
    );
    Figure::new("recovery", &caption, picture.draw())
}

fn values_of(rows: &[Row]) -> impl Iterator<Item = f64> {
    rows.iter().flat_map(|row| row.samples.iter().flat_map(|sample| sample.values.iter().copied()))
}

/// The number of clients in words.
fn clients(count: u64) -> String {
    let text = crate::statistics::fixed(float(count), 0);
    if count == 1 { format!("{text} client") } else { format!("{text} clients") }
}

#[cfg(test)]
mod tests;
