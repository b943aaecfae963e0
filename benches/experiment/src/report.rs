//! The report: one HTML file that needs nothing beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use crate::folder::Manifest;
use crate::plan::Point;
use crate::plot::{self, shown};
use crate::result::RunResult;
use crate::statistics::Spread;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:900px;margin:2em auto;padding:0 1em;\
    color:#222;background:#fff}table{border-collapse:collapse;margin:1em 0;font-size:13px}\
    td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right}\
    td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}\
    pre{background:#f4f4f4;padding:.7em;overflow:auto}.wide{overflow-x:auto}";

/// Results as a page.
///
/// # Errors
/// Those of the plots.
pub(crate) fn html(manifest: &Manifest, results: &[RunResult]) -> Result<String> {
    let plan = &manifest.plan;
    let title = escaped(&plan.title);
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{}</p>\n",
        escaped(&plan.about)
    );
    let flags: Vec<&str> = results
        .iter()
        .flat_map(|result| &result.nodes.unsafe_flags)
        .map(String::as_str)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    if !flags.is_empty() {
        let flags = escaped(&flags.join(", "));
        push(&mut text, &format!("<p><b>Some runs weaken a promise: {flags}</b></p>"));
    }
    if manifest.is_quick {
        push(&mut text, "<p><b>The short form: too short to be quoted.</b></p>");
    }
    push(&mut text, "<h2>Results</h2><p>Average and standard deviation of the repetitions.</p>");
    push(&mut text, &table(&summary(results)));
    for (_, svg) in plot::all(results)? {
        push(&mut text, &svg);
    }
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

/// A row for each point, the head first.
fn summary(results: &[RunResult]) -> Vec<Vec<String>> {
    let mut points: BTreeMap<&Point, Vec<&RunResult>> = BTreeMap::new();
    for result in results {
        points.entry(&result.run.point).or_default().push(result);
    }
    let measures = measures();
    let has = |measure: &Measure| results.iter().any(|result| (measure.of)(result).is_some());
    let measures: Vec<&Measure> = measures.iter().filter(|measure| has(measure)).collect();
    let mut head = vec!["point".to_owned(), "runs".to_owned()];
    head.extend(measures.iter().map(|measure| measure.name.to_owned()));
    let mut rows = vec![head];
    for (point, runs) in points {
        let mut row = vec![point.to_string(), runs.len().to_string()];
        for measure in &measures {
            let values: Vec<f64> = runs.iter().filter_map(|run| (measure.of)(run)).collect();
            let Spread { mean, deviation } = Spread::of(&values);
            row.push(match values.len() {
                0 => String::new(),
                1 => shown(mean),
                _ => format!("{} &plusmn; {}", shown(mean), shown(deviation)),
            });
        }
        rows.push(row);
    }
    rows
}

/// A column of the summary.
struct Measure {
    name: &'static str,
    of: fn(&RunResult) -> Option<f64>,
}

fn measures() -> [Measure; 11] {
    use crate::statistics::float;
    [
        Measure { name: "operations/s", of: |run| Some(run.load.as_ref()?.all.per_second) },
        Measure { name: "p50 ms", of: |run| Some(run.load.as_ref()?.all.latency.p50_ms) },
        Measure { name: "p90 ms", of: |run| Some(run.load.as_ref()?.all.latency.p90_ms) },
        Measure { name: "p99 ms", of: |run| Some(run.load.as_ref()?.all.latency.p99_ms) },
        Measure { name: "errors", of: |run| Some(float(run.load.as_ref()?.error_count())) },
        Measure {
            name: "logger lag at the end, entries",
            of: |run| run.nodes.learner_lag_max.map(float),
        },
        Measure { name: "transfer ms", of: |run| run.recovery.as_ref()?.transfer_ms },
        Measure { name: "install ms", of: |run| run.recovery.as_ref()?.install_ms },
        Measure { name: "recovery ms", of: |run| Some(run.recovery.as_ref()?.total_ms) },
        Measure { name: "commands/s", of: |run| run.recovery.as_ref()?.per_second() },
        Measure {
            name: "ms without service",
            of: |run| Some(run.failover.as_ref()?.without_service_ms),
        },
    ]
}

/// Cells are HTML already, but for names and values that come from outside.
fn table(rows: &[Vec<String>]) -> String {
    let mut text = "<div class=\"wide\"><table>".to_owned();
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
        push(&mut text, &format!("<tr>{}</tr>", cells.collect::<String>()));
    }
    text + "</table></div>"
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace("&amp;plusmn;", "&plusmn;")
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("invariant: a String takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text_and_no_markup() {
        assert_eq!(escaped("a<b>&c"), "a&lt;b&gt;&amp;c");
        assert!(table(&[vec!["<script>".to_owned()]]).contains("&lt;script&gt;"));
    }
}
