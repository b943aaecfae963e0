//! The report: one HTML file that needs nothing beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Result;

use crate::folder::Manifest;
use crate::plan::{Kind, Point};
use crate::plot::{Figure, escaped, peaks};
use crate::result::{PERCENTILES, RunResult};
use crate::statistics::{Summary, decimals, float};
use crate::variants::{share_of_none, variants};

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:900px;margin:2em auto;padding:0 1em;\
    color:#222;background:#fff}table{border-collapse:collapse;margin:1em 0;font-size:13px;\
    font-variant-numeric:tabular-nums}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;\
    text-align:right;white-space:nowrap}td:first-child,th:first-child{text-align:left;white-space:normal;min-width:15em}\
    svg{max-width:100%;height:auto}figure{margin:1.5em 0}figcaption{font-size:13px;color:#555}\
    pre{background:#f4f4f4;padding:.7em;overflow:auto}.wide{overflow-x:auto}";

/// What holds for every experiment.
const NOTES: [&str; 2] = [
    "Nodes, loggers and load share one machine and its disk. Points of this report can be compared with one \
     another, but not with clusters of several machines, nor with other machines.",
    "Few runs say little: a difference that is smaller than the ranges of the two sides may be chance.",
];
/// What holds for loads.
const LOAD_NOTE: &str = "Each client sends its next operation when it has the answer to the one before. So latencies \
    belong to the number of clients beside them, and a stall delays operations that are not counted as slow: \
    percentiles cannot be compared with those of a load at a constant rate.";
const FAILOVER_NOTE: &str = "Elections are seen by asking members every 10 ms; an election that took less is seen as none \
    or as one of 10 ms.";

/// Results as a page. `run_count` is how many runs there are once the experiment is whole.
///
/// # Errors
/// The plan cannot be written.
pub(crate) fn html(
    manifest: &Manifest,
    results: &[RunResult],
    figures: &[Figure],
    run_count: usize,
) -> Result<String> {
    let plan = &manifest.plan;
    let title = escaped(&plan.title);
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{}</p>\n",
        escaped(&plan.about)
    );
    for warning in warnings(manifest, results, run_count) {
        push(&mut text, &format!("<p><b>{}</b></p>", escaped(&warning)));
    }
    push(&mut text, "<h2>Results</h2>");
    push(
        &mut text,
        "<p>Medians, and in brackets the least and the most where a point has several runs. A percentile \
         is left out where fewer than ten operations of a run were slower.</p>",
    );
    push(&mut text, &table(&summary(results)));
    let loads = variants(results.iter().filter(|result| result.load.is_some()));
    let peaks = peaks(&loads);
    if !peaks.is_empty() {
        push(&mut text, "<h2>Where throughput ends</h2>");
        push(&mut text, &list(peaks.iter().map(String::as_str)));
    }
    for figure in figures {
        let caption = escaped(&figure.caption);
        let svg = &figure.svg;
        push(&mut text, &format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>"));
    }
    push(&mut text, "<h2>What is not comparable</h2>");
    let mut notes: Vec<&str> = plan.not_comparable.iter().map(String::as_str).collect();
    notes.extend(NOTES);
    notes.extend((plan.kind != Kind::Recovery).then_some(LOAD_NOTE));
    notes.extend((plan.kind == Kind::Failover).then_some(FAILOVER_NOTE));
    push(&mut text, &list(notes.into_iter()));
    push(&mut text, "<h2>What it ran on</h2>");
    let mut rows = vec![vec![String::new(), String::new()]];
    rows.extend(manifest.surroundings.rows().into_iter().map(|(name, value)| vec![name, value]));
    rows.push(vec!["command".to_owned(), manifest.command.clone()]);
    rows.push(vec!["seed".to_owned(), plan.seed.to_string()]);
    push(&mut text, &table(&rows));
    push(&mut text, "<h2>The plan</h2>");
    let json = serde_json::to_string_pretty(plan)?;
    push(&mut text, &format!("<pre>{}</pre>\n</body></html>", escaped(&json)));
    Ok(text)
}

/// Why results are to be taken with care.
fn warnings(manifest: &Manifest, results: &[RunResult], run_count: usize) -> Vec<String> {
    let flags = results.iter().flat_map(|result| &result.nodes.unsafe_flags).map(String::as_str);
    let flags: Vec<&str> = flags.collect::<BTreeSet<_>>().into_iter().collect();
    let mut warnings = Vec::new();
    if results.len() < run_count {
        let count = results.len();
        warnings.push(format!("Not whole: {count} of {run_count} runs have been made."));
    }
    if manifest.is_quick {
        warnings.push("The short form: too short to be quoted.".to_owned());
    }
    if !flags.is_empty() {
        warnings.push(format!("Some runs weaken a promise: {}", flags.join(", ")));
    }
    warnings
}

/// A row for each point, the head first. The numbers of a column have the same number of decimals.
fn summary(results: &[RunResult]) -> Vec<Vec<String>> {
    let mut points: BTreeMap<&Point, Vec<&RunResult>> = BTreeMap::new();
    for result in results {
        points.entry(&result.run.point).or_default().push(result);
    }
    let mut rows = vec![vec!["point".to_owned(), "n".to_owned()]];
    rows.extend(points.iter().map(|(point, runs)| vec![point.to_string(), runs.len().to_string()]));
    for Measure { name, of } in measures(results) {
        let all: Vec<f64> = results.iter().filter_map(&of).collect();
        if all.is_empty() {
            continue;
        }
        let decimals = decimals(&all);
        rows[0].push(name);
        for (row, runs) in rows.iter_mut().skip(1).zip(points.values()) {
            let values: Vec<f64> = runs.iter().filter_map(|run| of(run)).collect();
            let cell = Summary::of(&values).map(|summary| summary.words(decimals));
            let count = values.len();
            // Not every run may have the number, and n stands for all of them.
            let is_part = count > 0 && count < runs.len();
            let of = if is_part { format!(", n = {count}") } else { String::new() };
            row.push(cell.unwrap_or_default() + &of);
        }
    }
    rows
}

/// What is taken of a run.
type Value<'a> = dyn Fn(&RunResult) -> Option<f64> + 'a;

/// A column of the summary.
struct Measure<'a> {
    name: String,
    of: Box<Value<'a>>,
}

impl<'a> Measure<'a> {
    fn new(name: &str, of: impl Fn(&RunResult) -> Option<f64> + 'a) -> Measure<'a> {
        Measure { name: name.to_owned(), of: Box::new(of) }
    }
}

fn measures(results: &[RunResult]) -> Vec<Measure<'_>> {
    let mut measures = vec![
        Measure::new("operations/s", |run| Some(run.load.as_ref()?.all.per_second)),
        Measure::new("% of none", |run| share_of_none(results, run)),
    ];
    for percentile in PERCENTILES {
        let name = format!("{} ms", percentile.name);
        measures.push(Measure::new(&name, move |run| percentile.of(run.load.as_ref()?)));
    }
    measures.extend([
        Measure::new("slowest ms", |run| Some(run.load.as_ref()?.all.latency.max_ms)),
        Measure::new("errors", |run| Some(float(run.load.as_ref()?.error_count()))),
        Measure::new("logger lag at the end, entries", |run| run.nodes.learner_lag_max.map(float)),
        Measure::new("transfer ms", |run| run.recovery.as_ref()?.transfer_ms),
        Measure::new("install ms", |run| run.recovery.as_ref()?.install_ms),
        Measure::new("recovery ms", |run| Some(run.recovery.as_ref()?.total_ms)),
        Measure::new("commands/s", |run| run.recovery.as_ref()?.per_second()),
        Measure::new("ms without service", |run| Some(run.failover.as_ref()?.without_service_ms)),
        Measure::new("detection ms", |run| run.failover.as_ref()?.parts_ms()[0]),
        Measure::new("election ms", |run| run.failover.as_ref()?.parts_ms()[1]),
        Measure::new("first write ms", |run| run.failover.as_ref()?.parts_ms()[2]),
    ]);
    measures
}

fn table(rows: &[Vec<String>]) -> String {
    let mut text = "<div class=\"wide\"><table>".to_owned();
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
        push(&mut text, &format!("<tr>{}</tr>", cells.collect::<String>()));
    }
    text + "</table></div>"
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items = items.map(|item| format!("<li>{}</li>\n", escaped(item)));
    format!("<ul>{}</ul>", items.collect::<String>())
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("invariant: a String takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::result::tests::loaded;
    use crate::surroundings::Surroundings;

    #[test]
    fn what_comes_from_outside_is_text_and_no_markup() {
        assert_eq!(escaped("a<b>&\"c"), "a&lt;b&gt;&amp;&quot;c");
        assert!(table(&[vec!["<script>".to_owned()]]).contains("&lt;script&gt;"));
    }

    #[test]
    fn a_report_says_what_is_not_comparable_and_what_is_missing() {
        let text = "title = 'x'\nkind = 'load'\nrepeat = 2\nnot_comparable = ['rows < columns']\n\
                    [sweep]\nclients = [1, 8]\nstrategy = ['none', 'app']";
        let plan = Plan::parse(text, false).unwrap();
        let runs = plan.runs();
        let rates = [2_000.0, 2_100.0, 9_000.0, 9_400.0, 1_000.0, 1_025.5, 4_000.0];
        let results = runs.iter().zip(rates);
        let results: Vec<RunResult> =
            results.map(|(run, rate)| loaded(run.point.clone(), run.number, rate)).collect();
        let (command, surroundings) = (String::new(), Surroundings::default());
        let manifest = Manifest { plan, is_quick: false, command, surroundings };
        let report = html(&manifest, &results, &[], runs.len()).unwrap();
        for words in [
            "Not whole: 7 of 8 runs",
            "rows &lt; columns",
            "share one machine",
            "<td>2,050 (2,000 to 2,100)</td>",
            "<td>49.4 (48.8 to 50.0)</td>",
            "<td>43.5</td>",
            "none: throughput still rose at the end of the sweep (9,200 operations/s with 8 clients)",
        ] {
            assert!(report.contains(words), "{words}: {report}");
        }
        let mut some = results;
        some[0].load.as_mut().unwrap().all.count = 500;
        assert!(html(&manifest, &some, &[], 8).unwrap().contains("<td>1, n = 1</td>"));
        let whole = html(&manifest, &some, &[], 7).unwrap();
        assert!(!whole.contains("Not whole") && !whole.contains("&plusmn;"));
    }
}
