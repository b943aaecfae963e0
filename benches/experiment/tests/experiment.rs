//! The program over real clusters: a short experiment, one that dies in the middle, and what is
//! refused before anything is started.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Far more than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(20);
/// One point, two strategies.
const PLAN: &str = "title = 'quick'\nkind = 'load'\n[sweep]\nstrategy = ['none', 'app']\n\
                    clients = [4]\n[load]\nwarm_up_s = 1\nduration_s = 2\nreads = 50\nkeys = 1024\n\
                    [cluster]\nslots = 1024\n";

/// The experiment in `file`, with the programs beside this one.
fn experiment(file: &Path, out: &Path) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_diskstore-experiment"));
    for name in ["diskstore", "kvstore", "monit"] {
        let there = program.with_file_name(name).exists();
        assert!(there, "{name} is not built: run `cargo test --workspace`");
    }
    let mut command = Command::new(program);
    command.arg(file).arg("-out").arg(out).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// What a program said that did not do what it was asked.
fn refusal(command: &mut Command) -> String {
    let output = run(command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// Results that pass for whole.
fn results(out: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(out.join("runs")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|name| name == "json")).collect()
}

/// Processes that work in a folder.
fn processes_in(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let there = processes.filter(|process| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|at| at.starts_with(folder))
    });
    there.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}

type Row = BTreeMap<String, String>;

/// The rows of a table.
fn table(out: &Path, name: &str) -> Vec<Row> {
    let text = fs::read_to_string(out.join(name)).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let names: Vec<String> = lines.next().unwrap().collect();
    lines
        .map(|cells| {
            let cells: Vec<String> = cells.collect();
            assert_eq!(cells.len(), names.len(), "{name}: {cells:?}");
            names.iter().cloned().zip(cells).collect()
        })
        .collect()
}

fn number(row: &Row, name: &str) -> f64 {
    row[name].parse().unwrap()
}

#[test]
fn an_experiment_that_is_killed_goes_on_and_its_tables_make_sense() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quick.toml");
    let out = folder.path().join("out");
    fs::write(&file, PLAN).unwrap();
    let mut killed = experiment(&file, &out).stderr(Stdio::null()).spawn().unwrap();
    wait_until("a first result", || {
        assert!(killed.try_wait().unwrap().is_none(), "it has ended");
        !results(&out).is_empty()
    });
    wait_until("the second cluster", || processes_in(&out).len() >= 3);
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until("nothing is left of it", || processes_in(&out).is_empty());
    let first = results(&out);
    assert_eq!(first.len(), 1);
    let kept = fs::read(&first[0]).unwrap();
    assert!(!out.join("runs.csv").exists());
    // What there is can be read meanwhile, and says that it is not whole.
    let output = run(experiment(&file, &out).arg("-report"));
    assert!(output.status.success(), "{output:?}");
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("Not whole: 1 of 2 runs have been made"), "{report}");
    assert_eq!(results(&out).len(), 1);

    let output = run(&mut experiment(&file, &out));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("going on: 1 of 2 runs are done"), "{said}");
    assert_eq!(fs::read(&first[0]).unwrap(), kept);
    assert_eq!(results(&out).len(), 2);
    assert!(processes_in(&out).is_empty());
    check_tables(&out);
    check_report(&out);
}

fn check_tables(out: &Path) {
    let runs = table(out, "runs.csv");
    let strategies: Vec<&str> = runs.iter().map(|run| &*run["strategy"]).collect();
    assert_eq!(strategies, ["none", "app"]);
    for run in &runs {
        let of_run = |name| -> Vec<Row> {
            table(out, name).into_iter().filter(|row| row["run"] == run["run"]).collect()
        };
        let operations = number(run, "operations");
        assert!(operations > 0.0 && number(run, "errors") < 1.0, "{run:?}");
        assert!((number(run, "reads") + number(run, "writes") - operations).abs() < 0.5);
        // Rate and count are of one measurement, but for what was answered after its end.
        let in_time = number(run, "per_second") * number(run, "seconds");
        assert!(in_time <= operations + 0.5 && operations - in_time <= 4.5, "{run:?}");
        let order =
            ["p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"].map(|name| number(run, name));
        assert!(order[0] > 0.0 && order.is_sorted(), "{order:?}");
        assert!(number(run, "syncs") > 0.0);

        let series = of_run("series.csv");
        let sum: f64 = series.iter().map(|row| number(row, "reads") + number(row, "writes")).sum();
        assert!((sum - operations).abs() < 0.5, "{sum} {operations}");
        let seconds: Vec<f64> = series.iter().map(|row| number(row, "second")).collect();
        assert!(seconds.len() >= 2 && seconds.is_sorted_by(|one, other| one < other));

        for operation in ["reads", "writes"] {
            let rows = of_run("latency.csv");
            let rows = rows.iter().filter(|row| row["operation"] == operation);
            let rows: Vec<(f64, f64, f64)> = rows
                .map(|row| (number(row, "quantile"), number(row, "ms"), number(row, "count")))
                .collect();
            assert!(rows.is_sorted_by(|one, other| {
                one.0 <= other.0 && one.1 <= other.1 && one.2 <= other.2
            }));
            assert!(rows.iter().all(|(_, ms, _)| *ms > 0.0));
            let (quantile, _, count) = rows.last().unwrap();
            assert!((quantile - 1.0).abs() < 1e-9 && (count - number(run, operation)).abs() < 0.5);
        }

        let resources = of_run("resources.csv");
        for node in ["node0", "node1", "node2"] {
            let rows: Vec<&Row> = resources.iter().filter(|row| row["process"] == node).collect();
            let times: Vec<f64> = rows.iter().map(|row| number(row, "unix_ms")).collect();
            assert!(times.len() >= 5 && times.is_sorted_by(|one, other| one < other), "{times:?}");
            assert!(rows.iter().any(|row| number(row, "process_written_bytes") > 0.0));
        }
    }
}

fn check_report(out: &Path) {
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    for words in [
        "<h1>quick</h1>",
        "disk, app, sync always",
        "<svg",
        "What is not comparable",
        "% of none",
        "file system",
        "commit",
    ] {
        assert!(report.contains(words), "{words}");
    }
    assert!(!report.contains("Not whole"));
    for outside in ["src=", "href=", "url(", "@import"] {
        assert!(!report.contains(outside), "the report leans on {outside}");
    }
    for plot in ["throughput", "cost", "latency-writes", "throughput-time-2", "resources-cpu"] {
        let svg = fs::read_to_string(out.join(format!("plots/{plot}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{plot}");
        let points = svg.matches("class=\"point\"").count();
        match plot {
            "throughput" | "resources-cpu" => assert_eq!(points, 2, "a point for each run"),
            "cost" => assert_eq!(points, 1, "what is compared with none"),
            _ => {}
        }
    }
}

#[test]
fn keys_in_memory_are_measured_as_slots_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory.toml");
    let out = folder.path().join("out");
    let plan = PLAN.replace("['none', 'app']", "['none']\nmachine = ['memory']");
    fs::write(&file, plan.replace("duration_s = 2", "duration_s = 1")).unwrap();
    let output = run(&mut experiment(&file, &out));
    assert!(output.status.success(), "{output:?}");
    let runs = table(&out, "runs.csv");
    assert_eq!((runs.len(), &*runs[0]["machine"]), (1, "memory"));
    assert!(number(&runs[0], "reads") > 0.0 && number(&runs[0], "writes") > 0.0);
    assert!(number(&runs[0], "missing") + number(&runs[0], "errors") < 1.0, "{:?}", runs[0]);
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"kvstore\""), "the program that was measured");
}

#[test]
fn what_cannot_be_run_is_named_and_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refused = |text: &str| {
        let file = folder.path().join("bad.toml");
        fs::write(&file, text).unwrap();
        let said = refusal(&mut experiment(&file, &out));
        assert!(said.contains("bad.toml"), "{said}");
        assert!(!out.exists());
        said
    };
    assert!(refused(&format!("{PLAN}nods = 3")).contains("`nods`"));
    assert!(refused(&PLAN.replace("[4]", "['4']")).contains("clients"));
    assert!(refused(&PLAN.replace("[4]", "[]")).contains("sweep.clients is empty"));

    let file = folder.path().join("quick.toml");
    fs::write(&file, PLAN).unwrap();
    let said = refusal(&mut experiment(&folder.path().join("none.toml"), &out));
    assert!(said.contains("none.toml"), "{said}");
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let said = refusal(experiment(&file, &out).arg("-programs").arg(&programs));
    assert!(said.contains("missing program") && said.contains("programs/diskstore"), "{said}");
    assert!(!out.exists());

    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes"), "x").unwrap();
    assert!(refusal(&mut experiment(&file, &out)).contains("notes"));
    let output = run(experiment(&file, &out).arg("-qick"));
    assert_eq!(output.status.code(), Some(2));
    let said = refusal(experiment(&file, &folder.path().join("none")).arg("-report"));
    assert!(said.contains("none"), "{said}");
    let said = refusal(experiment(&file, &out).arg(&file));
    assert!(said.contains("-out is the folder of one FILE"), "{said}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("-quick"));
}

#[test]
fn a_folder_with_another_experiment_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("quick.toml");
    let out = folder.path().join("out");
    fs::write(&file, PLAN).unwrap();
    let mut child = experiment(&file, &out).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it has begun", || out.join("manifest.json").exists());
    let said = refusal(&mut experiment(&file, &out));
    assert!(said.contains("in use"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    let manifest = fs::read(out.join("manifest.json")).unwrap();
    fs::write(&file, PLAN.replace("'quick'", "'other'")).unwrap();
    wait_until("nothing is left of it", || processes_in(&out).is_empty());
    let said = refusal(&mut experiment(&file, &out));
    assert!(said.contains("another experiment (`quick`)"), "{said}");
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), manifest);
}
