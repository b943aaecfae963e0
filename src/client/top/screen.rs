//! What `top` shows: a row for each member, of two looks at the cluster. Pure.
//!
//! - I1: what is not known is a dash; nothing is made of it.
//! - I2: columns are left out from the right as a screen gets narrower, never cut.

use std::collections::BTreeMap;

use ratatui_core::buffer::Buffer;
use ratatui_core::style::{Color, Modifier, Style};

use super::super::stages::{buckets, count, since};
use super::super::survey::{Seen, Survey};
use super::super::table::{bare_milliseconds, digits, size};
use crate::metrics::percentile_us;
use crate::status::MemberStatus;

/// Lines above the members: health, position, keys, a blank line, names of the columns.
const HEAD_LINES: u16 = 5;
/// Cells between two columns.
const GAP: u16 = 1;

/// By what the rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sorting {
    Name,
    Operations,
    Lag,
    Sync,
}

impl Sorting {
    /// The next one, and after the last the first again.
    pub(super) fn next(self) -> Sorting {
        match self {
            Sorting::Name => Sorting::Operations,
            Sorting::Operations => Sorting::Lag,
            Sorting::Lag => Sorting::Sync,
            Sorting::Sync => Sorting::Name,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Sorting::Name => "name",
            Sorting::Operations => "ops/s",
            Sorting::Lag => "lag",
            Sorting::Sync => "p99",
        }
    }
}

/// One member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    name: String,
    role: String,
    lag: Option<u64>,
    operations_per_s: Option<u64>,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    disk_used_bytes: Option<u64>,
    disk_left_bytes: Option<u64>,
    address: String,
    /// Whether it answered.
    is_there: bool,
}

/// What is drawn.
#[derive(Debug)]
pub(super) struct Screen {
    /// The addresses that were typed.
    list: String,
    pub(super) sorting: Sorting,
    pub(super) is_paused: bool,
    now: Option<Survey>,
    /// The look before: the answers by member id.
    before: BTreeMap<String, Seen>,
}

impl Screen {
    /// One before the first look.
    pub(super) fn new(list: String) -> Screen {
        let before = BTreeMap::new();
        Screen { list, sorting: Sorting::Name, is_paused: false, now: None, before }
    }

    /// Takes the next look at the cluster.
    pub(super) fn take(&mut self, survey: Survey) {
        if let Some(before) = self.now.replace(survey) {
            let answers = before.answers().into_iter();
            self.before = answers.map(|it| (it.status.member_id.clone(), it.clone())).collect();
        }
    }

    fn rows(&self, survey: &Survey) -> Vec<Row> {
        let answers = survey.answers();
        let leader = survey.leader().map(|seen| &seen.status);
        let seen_of = |id: &str| answers.iter().find(|seen| seen.status.member_id == id).copied();
        let row = |member: &MemberStatus| {
            let seen = seen_of(&member.id);
            let by_leader =
                leader.and_then(|status| status.members.iter().find(|known| known.id == member.id));
            let rates = seen.map(|seen| rates(self.before.get(&member.id), seen));
            let lag = by_leader.and_then(|member| member.lag);
            let leads = by_leader.is_some_and(|member| member.role == "leader");
            Row {
                name: member.name.clone(),
                role: seen.map_or(&member.role, |seen| &seen.status.role).clone(),
                lag: if leads { Some(0) } else { lag },
                operations_per_s: rates.and_then(|rates| rates.operations_per_s),
                p50_us: rates.and_then(|rates| rates.p50_us),
                p99_us: rates.and_then(|rates| rates.p99_us),
                disk_used_bytes: seen.map(|seen| seen.status.disk_used_bytes),
                disk_left_bytes: seen.map(|seen| seen.status.disk_left_bytes),
                address: member.client.clone(),
                is_there: seen.is_some(),
            }
        };
        let mut rows: Vec<Row> = survey.members.iter().map(|(member, _)| row(member)).collect();
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        match self.sorting {
            Sorting::Name => {}
            // The most first; of equal ones the order of names stays.
            Sorting::Operations => rows.sort_by_key(|row| std::cmp::Reverse(row.operations_per_s)),
            Sorting::Lag => rows.sort_by_key(|row| std::cmp::Reverse(row.lag)),
            Sorting::Sync => rows.sort_by_key(|row| std::cmp::Reverse(row.p99_us)),
        }
        rows
    }

    /// Draws all of it, as far as there is room.
    pub(super) fn draw(&self, buffer: &mut Buffer) {
        let plain = Style::default();
        let bold = plain.add_modifier(Modifier::BOLD);
        let dim = plain.add_modifier(Modifier::DIM);
        let paused = if self.is_paused { "p go on (paused)" } else { "p pause" };
        let keys = format!("q quit  s sort: {}  {paused}", self.sorting.word());
        put_line(buffer, 2, &keys, dim);
        let Some(survey) = &self.now else {
            put_line(buffer, 0, &format!("asking {} ...", self.list), bold);
            return;
        };
        let answers = survey.answers();
        if answers.is_empty() {
            let reasons = survey.typed.iter().filter_map(|visit| {
                let reason = visit.outcome.as_ref().err()?;
                Some(format!("{}: {reason}", visit.address))
            });
            put_line(buffer, 0, "no node answers", bold.fg(Color::Red));
            put_line(buffer, 1, &reasons.collect::<Vec<_>>().join("; "), plain);
            return;
        }
        let health = survey.health();
        let color = if health.is_healthy { Color::Green } else { Color::Yellow };
        let color = if health.has_majority { color } else { Color::Red };
        put_line(buffer, 0, &health.summary, bold.fg(color));
        put_line(buffer, 1, &position(survey, &answers), plain);
        let rows = self.rows(survey);
        let columns = fitting(&rows, buffer.area.width);
        let head = plain.add_modifier(Modifier::REVERSED);
        put_cells(
            buffer,
            HEAD_LINES - 1,
            columns.iter().map(|it| (it, it.column.head.to_owned())),
            head,
        );
        for (row, line) in rows.iter().zip(HEAD_LINES..) {
            let style = match (row.is_there, row.role.as_str()) {
                (false, _) => plain.fg(Color::Red),
                (true, "leader") => bold,
                (true, _) => plain,
            };
            put_cells(buffer, line, columns.iter().map(|it| (it, (it.column.cell)(row))), style);
        }
    }
}

fn position(survey: &Survey, answers: &[&Seen]) -> String {
    let term = answers.iter().map(|seen| seen.status.term).max().unwrap_or(0);
    let committed = answers.iter().map(|seen| seen.status.committed).max().unwrap_or(0);
    let leader = survey.leader().map_or("no leader", |seen| &seen.status.name);
    format!("{leader}, term {term}, committed {}", digits(committed))
}

/// What happened between two looks.
#[derive(Debug, Clone, Copy, Default)]
struct Rates {
    operations_per_s: Option<u64>,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
}

fn rates(before: Option<&Seen>, now: &Seen) -> Rates {
    let Some(before) = before else { return Rates::default() };
    let passed_ms = now.own_wall_ms.saturating_sub(before.own_wall_ms);
    let done = now.status.succeeded.checked_sub(before.status.succeeded);
    let per_s = |done: u64| done.saturating_mul(1000).checked_div(passed_ms);
    let syncs = since(buckets(&before.status, "sync"), buckets(&now.status, "sync"));
    let of_syncs = |percent| (count(&syncs) > 0).then(|| percentile_us(&syncs, percent));
    Rates {
        operations_per_s: done.and_then(per_s), // fewer than before: it has started anew
        p50_us: of_syncs(50),
        p99_us: of_syncs(99),
    }
}

/// A column: its name, and what stands in it.
struct Column {
    head: &'static str,
    cell: fn(&Row) -> String,
    is_right: bool,
}

/// The columns, the most useful first.
const COLUMNS: &[Column] = &[
    Column { head: "NAME", cell: |row| row.name.clone(), is_right: false },
    Column { head: "ROLE", cell: role, is_right: false },
    Column { head: "LAG", cell: |row| or_dash(row.lag, digits), is_right: true },
    Column { head: "OPS/S", cell: |row| or_dash(row.operations_per_s, digits), is_right: true },
    Column { head: "P99 MS", cell: |row| or_dash(row.p99_us, bare_milliseconds), is_right: true },
    Column { head: "P50 MS", cell: |row| or_dash(row.p50_us, bare_milliseconds), is_right: true },
    Column { head: "LEFT", cell: |row| or_dash(row.disk_left_bytes, size), is_right: true },
    Column { head: "USED", cell: |row| or_dash(row.disk_used_bytes, size), is_right: true },
    Column { head: "ADDRESS", cell: |row| row.address.clone(), is_right: false },
];

fn role(row: &Row) -> String {
    if row.is_there { row.role.clone() } else { "silent".to_owned() }
}

fn or_dash(value: Option<u64>, shown: fn(u64) -> String) -> String {
    value.map_or("-".to_owned(), shown)
}

/// A column with the cells that it takes.
struct Fitted {
    column: &'static Column,
    from: u16,
    width: u16,
}

/// The columns that fit, each as wide as what stands in it. // I2
fn fitting(rows: &[Row], width: u16) -> Vec<Fitted> {
    let mut fitted: Vec<Fitted> = Vec::new();
    let mut from = 0_u16;
    for column in COLUMNS {
        let cells = rows.iter().map(|row| (column.cell)(row).chars().count());
        let widest = cells.chain([column.head.len()]).max().unwrap_or(0);
        let wide = u16::try_from(widest).unwrap_or(u16::MAX);
        let end = from.saturating_add(wide);
        if end > width && !fitted.is_empty() {
            break;
        }
        fitted.push(Fitted { column, from, width: wide.min(width) });
        from = end.saturating_add(GAP);
    }
    fitted
}

fn put_line(buffer: &mut Buffer, line: u16, text: &str, style: Style) {
    if line < buffer.area.height {
        let printable: String = text.chars().filter(|char| !char.is_control()).collect();
        buffer.set_stringn(0, line, printable, usize::from(buffer.area.width), style);
    }
}

fn put_cells<'a>(
    buffer: &mut Buffer,
    line: u16,
    cells: impl Iterator<Item = (&'a Fitted, String)>,
    style: Style,
) {
    let mut text = String::new();
    for (Fitted { column, from, width }, cell) in cells {
        let (from, width) = (usize::from(*from), usize::from(*width));
        text.extend(std::iter::repeat_n(' ', from.saturating_sub(text.chars().count())));
        let blank = " ".repeat(width.saturating_sub(cell.chars().count()));
        let (before, after) = if column.is_right { (&*blank, "") } else { ("", &*blank) };
        text.extend([before, &cell, after]);
    }
    put_line(buffer, line, &text, style);
}

#[cfg(test)]
mod tests {
    use ratatui_core::backend::TestBackend;
    use ratatui_core::terminal::Terminal;

    use super::super::super::survey::Visit;
    use super::*;
    use crate::status::{StageStatus, Status};

    fn member(number: u64) -> MemberStatus {
        MemberStatus {
            id: number.to_string(),
            name: format!("node{number}"),
            role: if number == 0 { "leader" } else { "voter" }.to_owned(),
            client: format!("127.0.0.1:1100{number}"),
            lag: Some(number * 1000),
            ..MemberStatus::default()
        }
    }

    /// Three members, of which the last does not answer, after so many operations and seconds.
    fn survey(operations: u64, at_s: u64) -> Survey {
        let members: Vec<MemberStatus> = (0..3).map(member).collect();
        let visit = |number: u64| {
            let status = Status {
                member_id: number.to_string(),
                name: format!("node{number}"),
                role: if number == 0 { "leader" } else { "follower" }.to_owned(),
                cluster_id: "c".to_owned(),
                term: 4,
                committed: 12_345,
                members: members.clone(),
                succeeded: operations * (number + 1),
                disk_used_bytes: 3 << 20,
                disk_left_bytes: 77 << 30,
                stages: vec![StageStatus {
                    stage: "sync".to_owned(),
                    // Within 1024 microseconds each.
                    buckets: [vec![0; 9], vec![operations]].concat(),
                }],
                ..Status::default()
            };
            let seen = Seen { status, own_wall_ms: at_s * 1000, took_ms: 1 };
            let outcome = if number == 2 { Err("refused".to_owned()) } else { Ok(seen) };
            Visit { address: format!("127.0.0.1:1100{number}"), outcome }
        };
        let visits = members.iter().zip(0..).map(|(member, at)| (member.clone(), Some(visit(at))));
        Survey { typed: vec![visit(0)], members: visits.collect(), cluster_id: "c".to_owned() }
    }

    fn lines(screen: &Screen, width: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 9)).unwrap();
        terminal.draw(|frame| screen.draw(frame.buffer_mut())).unwrap();
        let shown = terminal.backend().to_string();
        let lines = shown.lines().map(|line| line.trim_matches('"').trim_end().to_owned());
        lines.collect()
    }

    fn after_two_looks() -> Screen {
        let mut screen = Screen::new(":11000".to_owned());
        screen.take(survey(1000, 10));
        screen.take(survey(4000, 12));
        screen
    }

    #[test]
    fn members_stand_below_each_other_with_what_happened_since_the_last_look() {
        assert_eq!(
            lines(&after_two_looks(), 100),
            [
                "2 of 3 voters answer, can lose 0; node2 does not answer",
                "node0, term 4, committed 12,345",
                "q quit  s sort: name  p pause",
                "",
                "NAME  ROLE       LAG OPS/S P99 MS P50 MS   LEFT  USED ADDRESS",
                "node0 leader       0 1,500   1.02   1.02 77 GiB 3 MiB 127.0.0.1:11000",
                "node1 follower 1,000 3,000   1.02   1.02 77 GiB 3 MiB 127.0.0.1:11001",
                "node2 silent   2,000     -      -      -      -     - 127.0.0.1:11002",
                "",
            ]
        );
    }

    #[test]
    fn a_narrow_screen_has_fewer_columns_and_no_halves_of_them() {
        let found = lines(&after_two_looks(), 40);
        assert_eq!(found[4], "NAME  ROLE       LAG OPS/S P99 MS P50 MS");
        assert_eq!(found[6], "node1 follower 1,000 3,000   1.02   1.02");
        assert_eq!(lines(&after_two_looks(), 39)[6], "node1 follower 1,000 3,000   1.02");
        for width in [1, 5, 12] {
            let found = lines(&after_two_looks(), width);
            assert!(found[5].starts_with('n'), "{found:?}");
        }
    }

    #[test]
    fn rows_are_sorted_as_was_asked_and_a_pause_is_said() {
        let mut screen = after_two_looks();
        screen.sorting = screen.sorting.next();
        screen.is_paused = true;
        let found = lines(&screen, 60);
        assert_eq!(found[2], "q quit  s sort: ops/s  p go on (paused)");
        let names: Vec<&str> = found[5..8].iter().map(|line| &line[..5]).collect();
        assert_eq!(names, ["node1", "node0", "node2"]);
        screen.sorting = screen.sorting.next();
        let names: Vec<String> = lines(&screen, 60)[5..8].iter().map(|it| it[..5].into()).collect();
        assert_eq!(names, ["node2", "node1", "node0"]);
    }

    #[test]
    fn before_the_first_answer_it_says_what_it_waits_for() {
        let mut screen = Screen::new(":11000".to_owned());
        assert_eq!(lines(&screen, 40)[0], "asking :11000 ...");
        let gone = Visit { address: ":11000".to_owned(), outcome: Err("refused".to_owned()) };
        screen.take(Survey { typed: vec![gone], ..Survey::default() });
        let found = lines(&screen, 40);
        assert_eq!(found[..2], ["no node answers", ":11000: refused"]);
        // One look alone says nothing of rates, and a node that has started anew neither.
        screen.take(survey(4000, 10));
        assert!(lines(&screen, 60)[5].contains(" - "));
        screen.take(survey(1000, 12));
        assert_eq!(lines(&screen, 60)[5].split_whitespace().nth(3), Some("-"));
    }
}
