//! Figures of failovers: writes in short whiles around the kill, and the parts of the time without service.

use super::axis::Axis;
use super::lanes::{Lane, Lanes, milliseconds};
use super::panels::Span;
use super::rows::{Row, Rows, Sample};
use super::{Figure, ROWS_CAPTION, values_of};
use crate::result::{Failover, RunResult, SERVICE_BIN_MS};
use crate::variants::variants;
use crate::watch::seconds;

/// How much is shown before the kill, and after the last run could write again, seconds.
const BEFORE_S: f64 = 0.5;
const AFTER_S: f64 = 0.7;
/// No more than this is shown after the kill, seconds.
const SHOWN_S_MAX: f64 = 15.0;
/// What the time without service consists of, and the number of its series.
const PARTS: [(&str, usize); 3] = [("detection", 4), ("election", 3), ("first write", 2)];

pub(super) fn figures(results: &[RunResult]) -> Vec<Figure> {
    let cases = variants(results.iter().filter(|result| result.failover.is_some()));
    let several = cases.len() > 1;
    let runs = cases.iter().flat_map(|case| {
        case.runs.iter().filter_map(move |run| {
            let name = if several { format!("{}, ", case.name) } else { String::new() };
            let name = format!("{name}run {}", run.run.repetition);
            Some((name, run.failover.as_ref()?))
        })
    });
    let runs: Vec<(String, &Failover)> = runs.collect();
    let ends = runs.iter().map(|(_, failover)| end_of(failover) / 1e3 + AFTER_S);
    let end = ends.fold(1.0, f64::max).min(SHOWN_S_MAX);
    let lanes = runs.iter().map(|(name, failover)| Lane {
        name: name.clone(),
        note: milliseconds(failover.without_service_ms),
        begin: -failover.kill_s,
        counts: failover.service.iter().map(|count| crate::statistics::float(*count)).collect(),
        spans: spans(failover),
    });
    let mut legend = vec![(0, format!("writes of the probes in {SERVICE_BIN_MS} ms"))];
    legend.extend(PARTS.map(|(name, series)| (series, name.to_owned())));
    let picture = Lanes {
        title: "Writes around the death of the leader, and the time without service".to_owned(),
        x: Axis::linear("seconds since the leader was killed", -BEFORE_S, end),
        step: seconds(SERVICE_BIN_MS),
        lanes: lanes.collect(),
        legend,
    };
    let caption = format!(
        "A lane is a run, a bar the writes of all probes that succeeded in {SERVICE_BIN_MS} ms; all lanes have the same \
         scale. Detection is the time from the kill until a member campaigns, election from there until a member says \
         that it leads, first write from there until the pause ends. Members are asked every 10 ms, so these bounds are \
         late by as much, and an election shorter than that may be seen as none."
    );
    vec![Figure::new("failover", &caption, picture.draw()), parts(results)]
}

/// Milliseconds from the kill until something could be written again.
fn end_of(failover: &Failover) -> f64 {
    failover.resumed_ms.unwrap_or(failover.without_service_ms)
}

fn spans(failover: &Failover) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut from = Some(0.0);
    for ((_, series), to) in PARTS.into_iter().zip(failover.bounds_ms()) {
        if let Some((from, to)) = from.zip(to) {
            spans.push(Span { series, from: from / 1e3, to: to / 1e3 });
        }
        from = to;
    }
    spans
}

/// Every part in a row.
fn parts(results: &[RunResult]) -> Figure {
    let cases = variants(results.iter().filter(|result| result.failover.is_some()));
    let mut rows = Vec::new();
    for case in &cases {
        let failovers = || case.runs.iter().filter_map(|run| run.failover.as_ref());
        let mut row = |name: &str, series, values: Vec<f64>| {
            let name =
                if cases.len() > 1 { format!("{}: {name}", case.name) } else { name.to_owned() };
            if !values.is_empty() {
                rows.push(Row { name, samples: vec![Sample { series, values }] });
            }
        };
        for (at, (name, series)) in PARTS.into_iter().enumerate() {
            row(name, series, failovers().filter_map(|failover| failover.parts_ms()[at]).collect());
        }
        let whole = failovers().map(|failover| failover.without_service_ms).collect();
        row("without service", 0, whole);
    }
    let picture = Rows {
        title: "What the time without service consists of".to_owned(),
        x: Axis::from_zero("milliseconds", values_of(&rows)),
        reference: None,
        rows,
        legend: Vec::new(),
    };
    let caption = format!(
        "{ROWS_CAPTION} The time without service begins at the last write that succeeded, before or shortly after the \
         kill, so it is not the sum of its parts."
    );
    Figure::new("failover-parts", &caption, picture.draw())
}
