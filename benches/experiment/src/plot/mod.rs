//! Which plots results come to.

mod chart;

use std::collections::BTreeMap;

use anyhow::Result;

use crate::result::{RunResult, SERVICE_BIN_MS};
use crate::statistics::{Spread, float};
use crate::watch::seconds;
use chart::{Axis, Bars, Line, Mark, Scale, bars, boxes, lines};

pub(crate) use chart::shown;

/// Variants of which throughput over time is shown, each in a plot of its own.
const TIME_PLOT_COUNT_MAX: usize = 6;
/// How much of a failover is shown before and after the kill.
const KILL_WINDOW_S: (f64, f64) = (1.0, 8.0);

const MIB: f64 = 1_048_576.0;

const LATENCY: Axis<'_> = Axis { name: "latency, ms", scale: Scale::Logarithmic };
const THROUGHPUT: Axis<'_> = Axis { name: "operations/s", scale: Scale::Linear };

/// Results of each combination of factors but the number of clients, in the order of the sweep.
type Variants<'a> = Vec<(String, Vec<&'a RunResult>)>;

/// Names of files, and what they hold.
///
/// # Errors
/// Those of the drawing.
pub(crate) fn all(results: &[RunResult]) -> Result<Vec<(String, String)>> {
    let mut plots = Vec::new();
    let loads: Vec<&RunResult> = results.iter().filter(|result| result.load.is_some()).collect();
    if !loads.is_empty() {
        let all = variants(loads.iter().copied());
        let most = loads.iter().map(|result| result.run.point.clients).max().unwrap_or_default();
        let heaviest = loads.iter().copied().filter(|result| result.run.point.clients == most);
        let heaviest = variants(heaviest);
        if loads.iter().any(|result| result.run.point.clients != most) {
            plots.push(("throughput-latency".to_owned(), throughput_latency(&all)?));
        }
        plots.extend(distributions(&heaviest, most)?);
        plots.push(("throughput-boxes".to_owned(), throughput_boxes(&heaviest, most)?));
        for (number, (name, runs)) in heaviest.iter().enumerate().take(TIME_PLOT_COUNT_MAX) {
            let plot = throughput_time(name, runs[0])?;
            plots.push((format!("throughput-time-{}", number + 1), plot));
        }
        plots.extend(resources(&heaviest, most)?);
    }
    if results.iter().any(|result| result.recovery.is_some()) {
        plots.push(("recovery".to_owned(), recovery(results)?));
    }
    if results.iter().any(|result| result.failover.is_some()) {
        plots.push(("failover".to_owned(), failover(results)?));
        plots.push(("failover-boxes".to_owned(), failover_boxes(results)?));
    }
    Ok(plots.into_iter().map(|(name, svg)| (format!("plots/{name}.svg"), svg)).collect())
}

/// Variants are called by those of their factors that differ between results.
fn variants<'a>(results: impl Iterator<Item = &'a RunResult> + Clone) -> Variants<'a> {
    let all: Vec<Vec<String>> = results.clone().map(|result| result.run.point.factors()).collect();
    let differs = |at: usize| all.iter().any(|factors| factors[at] != all[0][at]);
    let mut variants = Variants::new();
    for (result, factors) in results.zip(&all) {
        let told = factors.iter().enumerate().filter(|(at, _)| differs(*at));
        let told: Vec<&str> = told.map(|(_, factor)| factor.as_str()).collect();
        let point = &result.run.point;
        let name = match told[..] {
            [] => format!("{}, {}, sync {}", point.machine, point.strategy, point.sync),
            [value] if value == point.strategy.to_string() => format!("strategy {value}"),
            _ => told.join(", "),
        };
        match variants.iter_mut().find(|(found, _)| *found == name) {
            Some((_, runs)) => runs.push(result),
            None => variants.push((name, vec![result])),
        }
    }
    variants
}

fn throughput_latency(variants: &Variants<'_>) -> Result<String> {
    let mut all = Vec::new();
    for (colour, (name, runs)) in variants.iter().enumerate() {
        let mut by_clients: BTreeMap<u64, Vec<&RunResult>> = BTreeMap::new();
        for run in runs {
            by_clients.entry(run.run.point.clients).or_default().push(run);
        }
        for (width, quantile) in [(3, 50), (2, 90), (1, 99)] {
            let point = |runs: &Vec<&RunResult>| {
                let of = |value: &dyn Fn(&RunResult) -> f64| {
                    Spread::of(&runs.iter().map(|run| value(run)).collect::<Vec<_>>()).mean
                };
                (of(&RunResult::per_second), of(&|run| latency(run, quantile)))
            };
            let points = by_clients.values().map(point).collect();
            let name = if quantile == 50 { name.clone() } else { String::new() };
            all.push(Line { name, colour, width, points, has_dots: true });
        }
    }
    let title = "latency over throughput: p50 (thick), p90, p99 (thin)";
    lines(title, [THROUGHPUT, LATENCY], &all, &[])
}

fn latency(result: &RunResult, quantile: u64) -> f64 {
    let latency = result.load.as_ref().map(|load| load.all.latency);
    latency.map_or(0.0, |latency| match quantile {
        50 => latency.p50_ms,
        90 => latency.p90_ms,
        _ => latency.p99_ms,
    })
}

/// Every repetition is a line.
fn distributions(variants: &Variants<'_>, clients: u64) -> Result<Vec<(String, String)>> {
    let mut plots = Vec::new();
    for operation in ["reads", "writes", "modifies"] {
        let mut all = Vec::new();
        for (colour, (name, runs)) in variants.iter().enumerate() {
            for run in runs {
                let rows = run.latencies.iter().filter(|row| row.operation == operation);
                let points: Vec<(f64, f64)> = rows.map(|row| (row.ms, row.quantile)).collect();
                if !points.is_empty() {
                    let name = name.clone();
                    all.push(Line { name, colour, width: 1, points, has_dots: false });
                }
            }
        }
        if !all.is_empty() {
            let title = format!("latency of {operation}, {clients} clients");
            let share = Axis { name: "share of operations", scale: Scale::Linear };
            let svg = lines(&title, [LATENCY, share], &all, &[])?;
            plots.push((format!("latency-{operation}"), svg));
        }
    }
    Ok(plots)
}

fn throughput_boxes(variants: &Variants<'_>, clients: u64) -> Result<String> {
    let groups: Vec<(String, Vec<f64>)> = variants
        .iter()
        .map(|(name, runs)| (name.clone(), runs.iter().map(|run| run.per_second()).collect()))
        .collect();
    boxes(&format!("throughput of each run, {clients} clients"), THROUGHPUT.name, &groups)
}

fn throughput_time(name: &str, result: &RunResult) -> Result<String> {
    let Some(load) = &result.load else { return Ok(String::new()) };
    // What is answered after the end is no whole second.
    let whole = load.series.iter().zip(0_u64..).filter(|(_, at)| float(*at) + 1.0 <= load.seconds);
    let points = whole
        .map(|(row, at)| (float(at) + 0.5, float(row.reads + row.writes + row.modifies)))
        .collect();
    let line =
        Line { name: "operations/s".to_owned(), colour: 0, width: 2, points, has_dots: false };
    let marks = result.events.iter().map(|event| Mark {
        name: event.kind.clone(),
        colour: match event.kind.as_str() {
            "checkpoint" => 4,
            "snapshot" => 2,
            "election" => 5,
            _ => 6,
        },
        from: (event.second - event.took_s).max(0.0),
        to: event.second,
    });
    let time = Axis { name: "seconds", scale: Scale::Linear };
    let title = format!("throughput over time, one run: {name}");
    lines(&title, [time, THROUGHPUT], &[line], &marks.collect::<Vec<_>>())
}

/// CPU, memory and disk of nodes and loggers.
fn resources(variants: &Variants<'_>, clients: u64) -> Result<Vec<(String, String)>> {
    let categories: Vec<String> = variants.iter().map(|(name, _)| name.clone()).collect();
    let measures: [(&str, &str, Measure); 3] = [
        ("resources-cpu", "processors used", cpu),
        ("resources-memory", "anonymous memory, MiB", memory),
        ("resources-disk", "written to the disk, MiB/s", written),
    ];
    let mut plots = Vec::new();
    for (file, name, measure) in measures {
        let of = |prefix: &'static str| {
            let value = |run: &&RunResult| -> Option<f64> {
                let processes = run.resources.iter();
                let mut found =
                    processes.filter(|process| process.process.starts_with(prefix)).peekable();
                found.peek()?;
                Some(found.map(|process| measure(process, run)).sum())
            };
            let values = variants.iter().map(|(_, runs)| {
                let values: Vec<f64> = runs.iter().filter_map(value).collect();
                (!values.is_empty()).then(|| Spread::of(&values))
            });
            values.collect::<Vec<_>>()
        };
        let series = [("all nodes", of("node")), ("all loggers", of("log"))];
        let series = series.into_iter().filter(|(_, values)| values.iter().any(Option::is_some));
        let series: Vec<Bars> =
            series.map(|(name, values)| Bars { name: name.to_owned(), values }).collect();
        let svg = bars(&format!("{name}, {clients} clients"), name, &categories, &series)?;
        plots.push((file.to_owned(), svg));
    }
    Ok(plots)
}

type Measure = fn(&crate::result::Resources, &RunResult) -> f64;

fn cpu(process: &crate::result::Resources, result: &RunResult) -> f64 {
    let used =
        total(process, "process_user_ms", result) + total(process, "process_system_ms", result);
    used / total(process, "interval_ms", result).max(1.0)
}

fn memory(process: &crate::result::Resources, _: &RunResult) -> f64 {
    float(process.column("process_anonymous_bytes").max().unwrap_or_default()) / MIB
}

fn written(process: &crate::result::Resources, result: &RunResult) -> f64 {
    let bytes = total(process, "process_written_bytes", result);
    bytes / MIB / (total(process, "interval_ms", result).max(1.0) / 1e3)
}

/// The sum of a column over the measurement.
fn total(process: &crate::result::Resources, column: &str, result: &RunResult) -> f64 {
    let times = process.column("unix_ms");
    let measured = times.zip(process.column(column)).filter(|(at, _)| *at > result.begin_unix_ms);
    float(measured.map(|(_, value)| value).sum())
}

fn recovery(results: &[RunResult]) -> Result<String> {
    let cases = variants(results.iter().filter(|result| result.recovery.is_some()));
    let series = ["transfer", "install", "total"].into_iter().enumerate().map(|(at, name)| {
        let values = cases.iter().map(|(_, runs)| {
            let times = runs.iter().filter_map(|run| {
                let recovery = run.recovery.as_ref()?;
                [recovery.transfer_ms, recovery.install_ms, Some(recovery.total_ms)][at]
            });
            let times: Vec<f64> = times.collect();
            (!times.is_empty()).then(|| Spread::of(&times))
        });
        Bars { name: name.to_owned(), values: values.collect() }
    });
    let categories: Vec<String> = cases.iter().map(|(name, _)| name.clone()).collect();
    let title = "recovery, average and standard deviation";
    bars(title, "milliseconds", &categories, &series.collect::<Vec<_>>())
}

fn failover(results: &[RunResult]) -> Result<String> {
    let mut all = Vec::new();
    for (colour, (name, runs)) in variants(results.iter()).iter().enumerate() {
        for failover in runs.iter().filter_map(|run| run.failover.as_ref()) {
            let points = failover.service.iter().zip(0_u64..).map(|(count, bin)| {
                (seconds(bin * SERVICE_BIN_MS) - failover.kill_s + KILL_WINDOW_S.0, float(*count))
            });
            let shown =
                points.filter(|(at, _)| (0.0..=KILL_WINDOW_S.0 + KILL_WINDOW_S.1).contains(at));
            let (name, points) = (name.clone(), shown.collect());
            all.push(Line { name, colour, width: 1, points, has_dots: false });
        }
    }
    let name = "the leader is killed".to_owned();
    let kill = Mark { name, colour: 6, from: KILL_WINDOW_S.0, to: KILL_WINDOW_S.0 };
    let time = Axis { name: "seconds", scale: Scale::Linear };
    let writes = Axis { name: "writes of probes in 50 ms", scale: Scale::Linear };
    lines("writes while the leader is killed", [time, writes], &all, &[kill])
}

fn failover_boxes(results: &[RunResult]) -> Result<String> {
    let groups: Vec<(String, Vec<f64>)> = variants(results.iter())
        .into_iter()
        .map(|(name, runs)| {
            let times =
                runs.iter().filter_map(|run| Some(run.failover.as_ref()?.without_service_ms));
            (name, times.collect())
        })
        .collect();
    boxes("time without service after the leader was killed", "milliseconds", &groups)
}
