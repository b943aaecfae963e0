//! What pictures show, as far as their elements tell: names, numbers of points, labels of axes.

use super::*;
use crate::plan::{Plan, Point};
use crate::result::tests::loaded;
use crate::result::{Failover, Quantile, Recovery};

/// Every run of a plan, with throughput by its point and repetition.
fn results(plan: &str, rate: impl Fn(&Point, u64) -> f64) -> Vec<RunResult> {
    let runs = Plan::parse(plan, false).unwrap().runs();
    let result = |run: crate::plan::Run| {
        let per_second = rate(&run.point, run.repetition);
        RunResult { run: run.clone(), ..loaded(run.point, run.number, per_second) }
    };
    runs.into_iter().map(result).collect()
}

fn figure<'a>(figures: &'a [Figure], name: &str) -> &'a Figure {
    let found = figures.iter().find(|figure| figure.name == name);
    found.unwrap_or_else(|| panic!("no {name} among {:?}", names(figures)))
}

fn names(figures: &[Figure]) -> Vec<&str> {
    figures.iter().map(|figure| &*figure.name).collect()
}

/// The texts of a class, in their order.
fn texts<'a>(svg: &'a str, class: &str) -> Vec<&'a str> {
    let begin = format!("<text class=\"{class}\"");
    let lines = svg.lines().filter(|line| line.starts_with(&begin));
    lines.map(|line| line.split(['>', '<']).nth(2).unwrap()).collect()
}

fn count(svg: &str, class: &str) -> usize {
    svg.matches(&format!("class=\"{class}\"")).count()
}

const COST: &str = "title = 'x'\nkind = 'load'\nrepeat = 2\n[sweep]\nclients = [1, 16]\n\
                    strategy = ['none', 'app']\nsync = ['always', 'never']";

/// More clients, more throughput; a record costs half.
fn rate(point: &Point, repetition: u64) -> f64 {
    let whole = 1_000.0 * float(point.clients) + 10.0 * float(repetition);
    if point.strategy == crate::plan::Strategy::None { whole } else { whole / 2.0 }
}

#[test]
fn latency_over_throughput_has_a_panel_for_each_percentile_and_clients_at_its_points() {
    let figures = all(&results(COST, rate));
    let Figure { svg, caption, .. } = figure(&figures, "latency-throughput");
    assert_eq!(texts(svg, "panel"), ["p50", "p90", "p99", "p99.9"]);
    // Four variants with two numbers of clients each, in each of four panels.
    assert_eq!(count(svg, "point"), 4 * 2 * 4);
    let labels = texts(svg, "label");
    assert_eq!(labels.len(), 4 * 2 * 4);
    assert!(labels.iter().all(|label| ["1", "16"].contains(label)), "{labels:?}");
    assert_eq!(
        texts(svg, "legend"),
        ["none, sync always", "none, sync never", "app, sync always", "app, sync never"]
    );
    assert!(texts(svg, "title")[0].ends_with("n = 2") && caption.contains("n = 2 runs"));
    // Of two runs there is a range, in both directions.
    assert_eq!(count(svg, "range"), 2 * 4 * 2 * 4);
    let few = results(COST, rate).into_iter().map(|mut run| {
        run.load.as_mut().unwrap().all.count = 5_000;
        run
    });
    let figures = all(&few.collect::<Vec<_>>());
    let few = figure(&figures, "latency-throughput");
    assert_eq!(texts(&few.svg, "panel"), ["p50", "p90", "p99"], "five operations are no p99.9");
}

#[test]
fn rows_are_named_and_each_run_is_a_point() {
    let figures = all(&results(COST, rate));
    let cost = &figure(&figures, "cost").svg;
    assert_eq!(
        texts(cost, "category"),
        [
            "sync always, 1 client",
            "sync always, 16 clients",
            "sync never, 1 client",
            "sync never, 16 clients"
        ]
    );
    assert_eq!((count(cost, "point"), count(cost, "reference")), (8, 1));
    assert_eq!(texts(cost, "count"), ["n = 2"; 4]);
    let ticks = texts(cost, "tick");
    assert_eq!((ticks[0], ticks[ticks.len() - 1]), ("0", "100"));

    let alone = COST.replace("[1, 16]", "[64]").replace("repeat = 2", "repeat = 1");
    let figures = all(&results(&alone, rate));
    let throughput = &figure(&figures, "throughput").svg;
    assert_eq!(count(throughput, "point"), 4);
    let nothing = count(throughput, "range") + count(throughput, "median");
    assert_eq!(nothing, 0, "one run has no range");
    assert!(texts(throughput, "tick").contains(&"20,000"), "digits agree: {throughput}");
}

#[test]
fn a_sweep_says_whether_throughput_fell() {
    let plan = "title = 'x'\nkind = 'load'\n[sweep]\nclients = [1, 2, 4]";
    let rising = all(&results(plan, rate));
    let Figure { svg, caption, .. } = figure(&rising, "throughput-clients");
    assert!(
        caption.contains("still rose at the end of the sweep (4,010 operations/s with 4 clients)")
    );
    assert_eq!(texts(svg, "tick")[..7], ["0", "1,000", "2,000", "3,000", "4,000", "5,000", "1"]);
    assert_eq!(count(svg, "point"), 3);
    let falling = |point: &Point, _| {
        if point.clients == 4 { 1_500.0 } else { 1_000.0 * float(point.clients) }
    };
    let fallen = all(&results(plan, falling));
    let caption = &figure(&fallen, "throughput-clients").caption;
    assert!(
        caption.contains(
            "most 2,000 operations/s with 2 clients; with 4 clients it had fallen to 1,500"
        )
    );
}

#[test]
fn tails_are_drawn_down_to_what_was_measured_and_no_further() {
    let mut runs = results("title = 'x'\nkind = 'load'\nrepeat = 2", rate);
    for run in &mut runs {
        let row =
            |(ms, count)| Quantile { operation: "writes".to_owned(), quantile: 0.0, ms, count };
        run.latencies = [(1.0, 500), (2.0, 900), (30.0, 999), (700.0, 1_000)].map(row).into();
    }
    let figures = all(&runs);
    let svg = &figure(&figures, "latency-writes").svg;
    assert_eq!((count(svg, "curve"), texts(svg, "panel").len()), (2, 1));
    assert!(texts(svg, "panel")[0].ends_with("n = 2"));
    let ticks = texts(svg, "tick");
    assert_eq!(ticks[..4], ["1", "0.1 (p90)", "0.01 (p99)", "0.001 (p99.9)"]);
    assert!(
        !ticks.contains(&"1,000"),
        "the slowest operation has no share that was slower: {ticks:?}"
    );
    let curve = svg.lines().find(|line| line.contains("class=\"curve\"")).unwrap();
    let points = curve.split('"').nth(3).unwrap().split(' ').count();
    assert_eq!(points, 3 + 2, "three latencies and the corners between them");
}

#[test]
fn a_failover_is_drawn_in_its_short_whiles_with_detection_and_election_apart() {
    let plan = "title = 'x'\nkind = 'failover'\nrepeat = 2\n[load]\nduration_s = 9\nkill_at_s = 1";
    let mut runs = results(plan, rate);
    for run in &mut runs {
        let mut service = vec![0; 80];
        (service[18], service[50], service[51]) = (4, 2, 3);
        let (campaign_ms, elected_ms, resumed_ms) = (Some(1_450.0), Some(1_480.0), Some(1_500.0));
        run.failover = Some(Failover {
            kill_s: 1.0,
            without_service_ms: 1_520.0,
            campaign_ms,
            elected_ms,
            resumed_ms,
            service,
        });
    }
    let figures = all(&runs);
    let svg = &figure(&figures, "failover").svg;
    assert_eq!(texts(svg, "category"), ["run 1", "run 2"]);
    assert_eq!(texts(svg, "note"), ["1,520 ms"; 2]);
    assert_eq!(count(svg, "bar"), 2 * 3, "whiles without a write have no bar");
    assert_eq!(count(svg, "span"), 2 * 3);
    assert_eq!(texts(svg, "legend")[1..], ["detection", "election", "first write"]);
    let parts = &figure(&figures, "failover-parts").svg;
    assert_eq!(
        texts(parts, "category"),
        ["detection", "election", "first write", "without service"]
    );
    assert_eq!(count(parts, "point"), 2 * 4);
}

#[test]
fn recoveries_are_rows_by_source() {
    let plan = "title = 'x'\nkind = 'recovery'\nrepeat = 2\n[sweep]\nsource = ['restart', 'member']\n\
                commands = [10]";
    let mut runs = results(plan, rate);
    for run in &mut runs {
        run.load = None;
        run.recovery = Some(Recovery { total_ms: 300.0, ..Recovery::default() });
    }
    let figures = all(&runs);
    assert_eq!(names(&figures), ["recovery"]);
    let svg = &figures[0].svg;
    assert_eq!(texts(svg, "category"), ["restart", "member"]);
    assert_eq!((count(svg, "point"), texts(svg, "count").len()), (4, 2));
}

#[test]
fn names_are_text_and_nothing_leads_out_of_a_picture() {
    let mut runs = results("title = 'x'\nkind = 'load'\n[sweep]\nclients = [1, 2]", rate);
    runs[0].run.point.sync = "a<b".to_owned();
    for figure in all(&runs) {
        assert!(figure.svg.starts_with("<svg") && figure.svg.ends_with("</svg>\n"));
        assert!(!figure.svg.contains("a<b") && !figure.svg.contains("NaN"), "{}", figure.svg);
    }
}
