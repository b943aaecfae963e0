//! Figures of loads: throughput and latency over the number of clients, tails, cost, and time.

use std::collections::BTreeSet;

use super::axis::Axis;
use super::panels::{Curve, Grid, Join, Panel, Point, Span};
use super::rows::{Row, Rows, Sample};
use super::{Figure, ROWS_CAPTION, clients, values_of};
use crate::result::{PERCENTILES, Resources, RunResult};
use crate::statistics::{Summary, fixed, float};
use crate::variants::{Peak, Variant, share_of_none, variants};

/// Variants of which throughput over time is shown, each in a figure of its own.
const TIME_FIGURE_COUNT_MAX: usize = 6;
/// Repetitions that such a figure shows, each in a panel.
const TIME_PANEL_COUNT_MAX: usize = 5;

const MIB: f64 = 1_048_576.0;
/// What happens to a cluster, and the number of its series.
const EVENTS: [(&str, usize); 5] =
    [("checkpoint", 3), ("snapshot", 2), ("election", 1), ("join", 4), ("kill", 6)];

pub(super) fn figures(results: &[RunResult]) -> Vec<Figure> {
    let loads = || results.iter().filter(|result| result.load.is_some());
    let all = variants(loads());
    let counts: BTreeSet<u64> = loads().map(|result| result.run.point.clients).collect();
    let counts: Vec<u64> = counts.into_iter().collect();
    let mut figures = Vec::new();
    if counts.len() > 1 {
        figures.push(throughput_clients(&all, &counts));
        figures.push(latency_throughput(&all));
    } else {
        figures.push(throughput(&all, counts[0]));
    }
    figures.extend(cost(results));
    // What every variant has runs with: a sweep may have gone on for some of them alone.
    let common = |count: &&u64| all.iter().all(|it| it.by_clients().contains_key(count));
    let most = counts.iter().rev().find(common).copied().unwrap_or(counts[0]);
    let heaviest = variants(loads().filter(|result| result.run.point.clients == most));
    figures.extend(tails(&heaviest, most));
    for (number, variant) in heaviest.iter().enumerate().take(TIME_FIGURE_COUNT_MAX) {
        figures.push(throughput_time(&format!("throughput-time-{}", number + 1), variant, most));
    }
    figures.extend(resources(&heaviest, most));
    figures
}

fn legend(variants: &[Variant<'_>]) -> Vec<(usize, String)> {
    if variants.len() == 1 {
        return Vec::new();
    }
    variants.iter().map(|variant| variant.name.clone()).enumerate().collect()
}

/// Numbers of runs in words: `3`, or `2 to 3`.
fn run_counts(variants: &[Variant<'_>]) -> String {
    let counts = variants.iter().flat_map(|variant| {
        variant.by_clients().into_values().map(|runs| runs.len()).collect::<Vec<_>>()
    });
    let counts: BTreeSet<usize> = counts.collect();
    match (counts.first(), counts.last()) {
        (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
        (Some(count), _) => count.to_string(),
        _ => "0".to_owned(),
    }
}

/// What is taken of a run.
type Value<'a> = dyn Fn(&RunResult) -> Option<f64> + 'a;

/// A point for several runs: their medians, with the ranges.
fn point_of(runs: &[&RunResult], values: [&Value<'_>; 2]) -> Option<Point> {
    let summary = |value: &Value<'_>| {
        let values: Option<Vec<f64>> = runs.iter().map(|run| value(run)).collect();
        Summary::of(&values?)
    };
    let [x, y] = values.map(summary);
    let (x, y) = x.zip(y)?;
    let ranges = (x.count > 1).then_some([[x.least, x.most], [y.least, y.most]]);
    Some(Point { x: x.median, y: y.median, ranges, ..Point::default() })
}

fn throughput_clients(variants: &[Variant<'_>], counts: &[u64]) -> Figure {
    let rate = |run: &RunResult| Some(run.per_second());
    let count = |run: &RunResult| Some(float(run.run.point.clients));
    let curves = variants.iter().enumerate().map(|(series, variant)| {
        let points = variant.by_clients().into_iter().filter_map(|(count_of, runs)| {
            let point = point_of(&runs, [&count, &rate])?;
            let words =
                format!("{}: {}/s, n = {}", clients(count_of), fixed(point.y, 0), runs.len());
            Some(Point { words, ..point })
        });
        Curve { series, join: Join::Line, points: points.collect() }
    });
    let panel = Panel { title: String::new(), curves: curves.collect(), spans: Vec::new() };
    let rates = variants.iter().flat_map(|variant| variant.runs.iter().map(|run| run.per_second()));
    let grid = Grid {
        title: format!("Throughput, n = {}", run_counts(variants)),
        x: Axis::of_counts("clients (logarithmic)", counts),
        y: Axis::from_zero("operations/s", rates),
        columns: 1,
        panel_height: 300.0,
        panels: vec![panel],
        legend: legend(variants),
    };
    let caption = format!(
        "Medians of n = {} runs, with lines from the least to the most. {}",
        run_counts(variants),
        peaks(variants).join(" ")
    );
    Figure::new("throughput-clients", &caption, grid.draw())
}

/// For each variant, whether the sweep went on until throughput fell.
pub(crate) fn peaks(variants: &[Variant<'_>]) -> Vec<String> {
    let sentence = |variant: &Variant<'_>| {
        let Peak { clients: best, per_second, last_clients, last_per_second } = Peak::of(variant)?;
        let name = if variants.len() > 1 { format!("{}: ", variant.name) } else { String::new() };
        let most = format!("{} operations/s with {}", fixed(per_second, 0), clients(best));
        Some(if best < last_clients {
            let last = fixed(last_per_second, 0);
            format!("{name}most {most}; with {} it had fallen to {last}.", clients(last_clients))
        } else {
            format!(
                "{name}throughput still rose at the end of the sweep ({most}): where it ends was not reached."
            )
        })
    };
    variants.iter().filter_map(sentence).collect()
}

/// A panel for each percentile.
fn latency_throughput(variants: &[Variant<'_>]) -> Figure {
    let rate = |run: &RunResult| Some(run.per_second());
    let panels = PERCENTILES.into_iter().map(|percentile| {
        let latency = |run: &RunResult| percentile.of(run.load.as_ref()?);
        let curves = variants.iter().enumerate().map(|(series, variant)| {
            let points = variant.by_clients().into_iter().filter_map(|(count, runs)| {
                let point = point_of(&runs, [&rate, &latency])?;
                let [x, y] = [fixed(point.x, 0), fixed(point.y, 2)];
                let words = format!("{}: {x}/s, {y} ms, n = {}", clients(count), runs.len());
                Some(Point { label: count.to_string(), words, ..point })
            });
            Curve { series, join: Join::Line, points: points.collect() }
        });
        let (title, curves) = (percentile.name.to_owned(), curves.collect());
        Panel { title, curves, spans: Vec::new() }
    });
    let panels: Vec<Panel> = panels
        .filter(|panel| panel.curves.iter().any(|curve: &Curve| !curve.points.is_empty()))
        .collect();
    let ends = |axis: usize| {
        let points = panels.iter().flat_map(|panel| panel.curves.iter().flat_map(|it| &it.points));
        points.flat_map(move |point| {
            point.ranges.map_or([[point.x, point.y][axis]; 2], |ranges| ranges[axis])
        })
    };
    let (x, y) = (
        Axis::logarithmic("operations/s (logarithmic)", ends(0)),
        Axis::logarithmic("ms (logarithmic)", ends(1)),
    );
    let grid = Grid {
        title: format!(
            "Latency over throughput, by number of clients, n = {}",
            run_counts(variants)
        ),
        x,
        y,
        columns: 2,
        panel_height: 230.0,
        panels,
        legend: legend(variants),
    };
    let caption = format!(
        "Each point is labelled with its number of clients: medians of n = {} runs, with lines from the least to the \
         most. A percentile is left out where fewer than ten operations of a run were slower.",
        run_counts(variants)
    );
    Figure::new("latency-throughput", &caption, grid.draw())
}

fn throughput(variants: &[Variant<'_>], count: u64) -> Figure {
    let rows = variants.iter().map(|variant| {
        let values = variant.runs.iter().map(|run| run.per_second()).collect();
        Row { name: variant.name.clone(), samples: vec![Sample { series: 0, values }] }
    });
    let rows: Vec<Row> = rows.collect();
    let picture = Rows {
        title: format!("Throughput with {}", clients(count)),
        x: Axis::from_zero("operations/s", values_of(&rows)),
        reference: None,
        rows,
        legend: Vec::new(),
    };
    Figure::new("throughput", ROWS_CAPTION, picture.draw())
}

/// Throughput of each run as a share of that without a record of commands.
fn cost(results: &[RunResult]) -> Option<Figure> {
    let mut rows: Vec<(String, u64, Vec<f64>)> = Vec::new();
    let dear = results.iter().filter(|run| share_of_none(results, run).is_some());
    for variant in variants(dear) {
        for (count, runs) in variant.by_clients() {
            let values = runs.iter().filter_map(|run| share_of_none(results, run)).collect();
            rows.push((variant.name.clone(), count, values));
        }
    }
    let several = rows.iter().any(|row| row.1 != rows[0].1);
    let rows = rows.into_iter().map(|(name, count, values)| {
        let name = if several { format!("{name}, {}", clients(count)) } else { name };
        Row { name, samples: vec![Sample { series: 0, values }] }
    });
    let rows: Vec<Row> = rows.collect();
    if rows.is_empty() {
        return None;
    }
    let picture = Rows {
        title: "Throughput as a share of that without a record of commands".to_owned(),
        x: Axis::from_zero("% of the median of none", values_of(&rows).chain([100.0])),
        reference: Some(100.0),
        rows,
        legend: Vec::new(),
    };
    let caption = format!(
        "{ROWS_CAPTION} What is missing to 100 % is the cost; runs are compared with the median of the runs of strategy \
         none whose other factors are the same."
    );
    Some(Figure::new("cost", &caption, picture.draw()))
}

/// A panel for each variant, a curve for each run.
fn tails(heaviest: &[Variant<'_>], count: u64) -> Vec<Figure> {
    let mut figures = Vec::new();
    for operation in ["reads", "writes", "modifies"] {
        let panels = heaviest.iter().enumerate().map(|(series, variant)| {
            let curves = variant.runs.iter().map(|run| {
                let points = run.tail(operation).into_iter();
                let points = points.map(|(x, y)| Point { x, y, ..Point::default() }).collect();
                Curve { series, join: Join::Steps, points }
            });
            let curves: Vec<Curve> = curves.filter(|curve| !curve.points.is_empty()).collect();
            let title = format!("{}, n = {}", variant.name, curves.len());
            Panel { title, curves, spans: Vec::new() }
        });
        let panels: Vec<Panel> = panels.filter(|panel| !panel.curves.is_empty()).collect();
        if panels.is_empty() {
            continue;
        }
        let points =
            || panels.iter().flat_map(|panel| panel.curves.iter().flat_map(|it| &it.points));
        let least = points().map(|point| point.y).fold(1.0, f64::min);
        let (x, y) = (
            Axis::logarithmic("ms (logarithmic)", points().map(|point| point.x)),
            Axis::of_tails("share that took longer, 1 - p", least),
        );
        let grid = Grid {
            title: format!("Tails of the latency of {operation}, {}", clients(count)),
            x,
            y,
            columns: 2,
            panel_height: 210.0,
            panels,
            legend: Vec::new(),
        };
        let caption = "Each line is a run, with a step at each latency that was recorded. It ends at the last latency that some operation exceeded; the slowest operation \
                       of all is in the table.";
        figures.push(Figure::new(&format!("latency-{operation}"), caption, grid.draw()));
    }
    figures
}

fn throughput_time(name: &str, variant: &Variant<'_>, count: u64) -> Figure {
    let panels = variant.runs.iter().take(TIME_PANEL_COUNT_MAX).filter_map(|run| {
        let load = run.load.as_ref()?;
        // What is answered after the end is no whole second.
        let seconds = load.series.iter().zip(0_u64..);
        let whole = seconds.filter(|(_, at)| float(*at) + 1.0 <= load.seconds);
        let points = whole.map(|(row, at)| {
            let y = float(row.reads + row.writes + row.modifies);
            Point { x: float(at) + 0.5, y, ..Point::default() }
        });
        let curves = vec![Curve { series: 0, join: Join::Seconds, points: points.collect() }];
        let spans = run.events.iter().filter_map(|event| {
            let (_, series) = EVENTS.into_iter().find(|(kind, _)| *kind == event.kind)?;
            let from = (event.second - event.took_s).max(0.0);
            Some(Span { series, from, to: event.second })
        });
        Some(Panel { title: format!("run {}", run.run.repetition), curves, spans: spans.collect() })
    });
    let panels: Vec<Panel> = panels.collect();
    let points = || panels.iter().flat_map(|panel| panel.curves.iter().flat_map(|it| &it.points));
    let end = points().map(|point| point.x + 0.5).fold(1.0, f64::max);
    let happened = |kind: &str| {
        variant.runs.iter().any(|run| run.events.iter().any(|event| event.kind == kind))
    };
    let happened = EVENTS.into_iter().filter(|(kind, _)| happened(kind));
    let grid = Grid {
        title: format!("Throughput by the second: {}, {}", variant.name, clients(count)),
        x: Axis::linear("seconds", 0.0, end),
        y: Axis::from_zero("operations/s", points().map(|point| point.y)),
        columns: 1,
        panel_height: 120.0,
        legend: happened.map(|(kind, series)| (series, kind.to_owned())).collect(),
        panels,
    };
    let more = variant.runs.len().saturating_sub(TIME_PANEL_COUNT_MAX);
    let more =
        if more > 0 { format!(" {more} further runs are in series.csv.") } else { String::new() };
    let caption = format!(
        "Operations of each whole second; what happened on any node meanwhile is shaded and ends at a line; \
         what had not ended when the load did is not known.{more}"
    );
    Figure::new(name, &caption, grid.draw())
}

/// CPU, memory and disk of nodes and loggers.
fn resources(heaviest: &[Variant<'_>], count: u64) -> Vec<Figure> {
    let measures: [(&str, &str, Measure); 3] = [
        ("resources-cpu", "processors used", cpu),
        ("resources-memory", "anonymous memory at most, MiB", memory),
        ("resources-disk", "written to the disk, MiB/s", written),
    ];
    let mut figures = Vec::new();
    for (file, name, measure) in measures {
        let value = |run: &RunResult, prefix: &str| -> Option<f64> {
            let processes = run.resources.iter();
            let mut found =
                processes.filter(|process| process.process.starts_with(prefix)).peekable();
            found.peek()?;
            Some(found.map(|process| measure(process, run)).sum())
        };
        let rows = heaviest.iter().map(|variant| {
            let samples = ["node", "log"].into_iter().enumerate().map(|(series, prefix)| {
                let values = variant.runs.iter().filter_map(|run| value(run, prefix)).collect();
                Sample { series, values }
            });
            let samples = samples.filter(|sample: &Sample| !sample.values.is_empty()).collect();
            Row { name: variant.name.clone(), samples }
        });
        let rows: Vec<Row> = rows.filter(|row| !row.samples.is_empty()).collect();
        if rows.is_empty() {
            continue;
        }
        let has_loggers =
            rows.iter().any(|row| row.samples.iter().any(|sample| sample.series == 1));
        let legend = [(0, "all nodes".to_owned()), (1, "all loggers".to_owned())];
        let picture = Rows {
            title: format!("{name}, {}", clients(count)),
            x: Axis::from_zero(name, values_of(&rows)),
            reference: None,
            rows,
            legend: if has_loggers { legend.into() } else { Vec::new() },
        };
        figures.push(Figure::new(file, ROWS_CAPTION, picture.draw()));
    }
    figures
}

type Measure = fn(&Resources, &RunResult) -> f64;

fn cpu(process: &Resources, result: &RunResult) -> f64 {
    let used =
        total(process, "process_user_ms", result) + total(process, "process_system_ms", result);
    used / total(process, "interval_ms", result).max(1.0)
}

fn memory(process: &Resources, _: &RunResult) -> f64 {
    float(process.column("process_anonymous_bytes").max().unwrap_or_default()) / MIB
}

fn written(process: &Resources, result: &RunResult) -> f64 {
    let bytes = total(process, "process_written_bytes", result);
    bytes / MIB / (total(process, "interval_ms", result).max(1.0) / 1e3)
}

/// The sum of a column over the measurement.
fn total(process: &Resources, column: &str, result: &RunResult) -> f64 {
    let times = process.column("unix_ms");
    let measured = times.zip(process.column(column)).filter(|(at, _)| *at > result.begin_unix_ms);
    float(measured.map(|(_, value)| value).sum())
}
