//! Results as tidy CSV: one observation in a row, one factor or measure in a column.

use std::fmt::{Display, Write as _};

use crate::result::RunResult;
use crate::watch::seconds;

/// Names of the columns that say which run a row belongs to.
const FACTORS: &str = "run,repetition,machine,strategy,sync,read,value_bytes,clients";

/// Names of files, and what they hold; a table without rows is left out.
pub(crate) fn all(results: &[RunResult]) -> Vec<(String, String)> {
    let tables = [
        ("runs.csv", runs(results)),
        ("series.csv", series(results)),
        ("latency.csv", latency(results)),
        ("resources.csv", resources(results)),
        ("events.csv", events(results)),
        ("recovery.csv", recovery(results)),
        ("failover.csv", failover(results)),
        ("service.csv", service(results)),
    ];
    let filled = tables.into_iter().filter(|(_, text)| text.lines().count() > 1);
    filled.map(|(name, text)| (name.to_owned(), text)).collect()
}

fn runs(results: &[RunResult]) -> String {
    let mut text = format!(
        "{FACTORS},begin_unix_ms,whole_s,seconds,operations,per_second,reads,writes,modifies,missing,errors,\
         mean_ms,p50_ms,p90_ms,p99_ms,p999_ms,max_ms,syncs,sync_p50_us,sync_p99_us,\
         learner_lag_max,unsafe_flags\n"
    );
    for result in results {
        let Some(load) = &result.load else { continue };
        let (latency, nodes) = (load.all.latency, &result.nodes);
        let lag = nodes.learner_lag_max.map(|lag| lag.to_string()).unwrap_or_default();
        let cells: [&dyn Display; 22] = [
            &factors(result),
            &result.begin_unix_ms,
            &result.whole_s,
            &load.seconds,
            &load.all.count,
            &load.all.per_second,
            &load.reads.count,
            &load.writes.count,
            &load.modifies.count,
            &load.missing,
            &load.error_count(),
            &latency.mean_ms,
            &latency.p50_ms,
            &latency.p90_ms,
            &latency.p99_ms,
            &latency.p999_ms,
            &latency.max_ms,
            &nodes.sync_count,
            &nodes.sync_p50_us,
            &nodes.sync_p99_us,
            &lag,
            &nodes.unsafe_flags.join(" "),
        ];
        push(&mut text, &cells);
    }
    text
}

fn series(results: &[RunResult]) -> String {
    let mut text = "run,second,reads,writes,modifies,errors,p50_ms,p99_ms,max_ms\n".to_owned();
    for (result, load) in results.iter().filter_map(|result| Some((result, result.load.as_ref()?)))
    {
        for (second, row) in load.series.iter().enumerate() {
            push(
                &mut text,
                &[
                    &result.run.number,
                    &second,
                    &row.reads,
                    &row.writes,
                    &row.modifies,
                    &row.errors,
                    &row.p50_ms,
                    &row.p99_ms,
                    &row.max_ms,
                ],
            );
        }
    }
    text
}

fn latency(results: &[RunResult]) -> String {
    let mut text = "run,operation,quantile,ms,count\n".to_owned();
    for result in results {
        for row in &result.latencies {
            push(
                &mut text,
                &[&result.run.number, &row.operation, &row.quantile, &row.ms, &row.count],
            );
        }
    }
    text
}

fn resources(results: &[RunResult]) -> String {
    let mut text = String::new();
    for result in results {
        for process in &result.resources {
            if text.is_empty() {
                text = format!("run,process,second,{}\n", process.columns.join(","));
            }
            for row in &process.rows {
                let unix_ms = row.first().copied().unwrap_or_default();
                // Rows of the warm-up lie before.
                let begin = result.begin_unix_ms;
                let second =
                    seconds(unix_ms.max(begin) - begin) - seconds(begin.max(unix_ms) - unix_ms);
                let cells: Vec<String> = row.iter().map(u64::to_string).collect();
                push(&mut text, &[&result.run.number, &process.process, &second, &cells.join(",")]);
            }
        }
    }
    text
}

fn events(results: &[RunResult]) -> String {
    let mut text = "run,second,took_s,event,process\n".to_owned();
    for result in results {
        for event in &result.events {
            push(
                &mut text,
                &[&result.run.number, &event.second, &event.took_s, &event.kind, &event.process],
            );
        }
    }
    text
}

fn recovery(results: &[RunResult]) -> String {
    let mut text =
        format!("{FACTORS},source,commands,bytes,transfer_ms,install_ms,total_ms,per_second\n");
    for result in results {
        let (Some(recovery), Some(source)) = (&result.recovery, result.run.point.source) else {
            continue;
        };
        let cell =
            |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        push(
            &mut text,
            &[
                &factors(result),
                &source,
                &recovery.commands,
                &recovery.bytes,
                &cell(recovery.transfer_ms),
                &cell(recovery.install_ms),
                &recovery.total_ms,
                &cell(recovery.per_second()),
            ],
        );
    }
    text
}

fn failover(results: &[RunResult]) -> String {
    let mut text =
        format!("{FACTORS},kill_s,without_service_ms,campaign_ms,elected_ms,resumed_ms\n");
    for result in results {
        let Some(failover) = &result.failover else { continue };
        let [campaign, elected, resumed] =
            failover.bounds_ms().map(|ms| ms.map(|ms| ms.to_string()).unwrap_or_default());
        push(
            &mut text,
            &[
                &factors(result),
                &failover.kill_s,
                &failover.without_service_ms,
                &campaign,
                &elected,
                &resumed,
            ],
        );
    }
    text
}

fn service(results: &[RunResult]) -> String {
    let mut text = "run,second,writes\n".to_owned();
    for result in results {
        let Some(failover) = &result.failover else { continue };
        for (bin, count) in failover.service.iter().enumerate() {
            let second = seconds(bin as u64 * crate::result::SERVICE_BIN_MS);
            push(&mut text, &[&result.run.number, &second, count]);
        }
    }
    text
}

fn factors(result: &RunResult) -> String {
    let point = &result.run.point;
    let mut text = String::new();
    push(
        &mut text,
        &[
            &result.run.number,
            &result.run.repetition,
            &point.machine,
            &point.strategy,
            &point.sync,
            &point.read,
            &point.value_bytes,
            &point.clients,
        ],
    );
    text.trim_end().to_owned()
}

/// Appends a line. No cell holds a comma of its own but those that are several cells.
fn push(text: &mut String, cells: &[&dyn Display]) {
    for (index, cell) in cells.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}{cell}").expect("invariant: a String takes every write");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::result::{Event, Failover, Recovery, Resources};

    #[test]
    fn every_row_has_as_many_cells_as_its_table_has_columns() {
        let plan = "title = 'x'\nkind = 'recovery'\n[sweep]\ncommands = [5]\nsource = ['restart']";
        let run = Plan::parse(plan, false).unwrap().runs().remove(0);
        let mut result = RunResult::new(run);
        result.recovery =
            Some(Recovery { commands: 5, bytes: 7, total_ms: 2.0, ..Recovery::default() });
        result.failover = Some(Failover { service: vec![1, 2], ..Failover::default() });
        result.load = Some(crate::result::tests::report());
        result.latencies = crate::result::tests::latencies();
        result.begin_unix_ms = 1000;
        let (columns, rows) = (vec!["unix_ms".to_owned(), "x".to_owned()], vec![vec![900, 1]]);
        result.resources = vec![Resources { process: "node0".to_owned(), columns, rows }];
        let (kind, process) = ("kill".to_owned(), "node0".to_owned());
        result.events = vec![Event { second: 1.0, took_s: 0.0, kind, process }];
        let tables = all(&[result]);
        assert_eq!(tables.len(), 8);
        let recovery = &tables.iter().find(|(name, _)| name == "recovery.csv").unwrap().1;
        assert!(recovery.ends_with(",restart,5,7,,,2,\n"), "no rate was measured: {recovery}");
        for (name, text) in tables {
            let counts: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
            assert!(counts.iter().all(|count| *count == counts[0]), "{name}: {text}");
        }
    }
}
