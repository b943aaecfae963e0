//! Rows as text. The program and experiments call it; it calls nothing of this crate but
//! [`crate::sample`].
//!
//! - I1: Every call writes whole lines with one call of its sink, so that a file which grows can
//!   be read at any time.

use std::io::{self, Write};

use crate::sample::{Row, Totals};

/// Rows of a table under one heading.
const TABLE_ROWS: usize = 20;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What a file or a terminal is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A header, and a line for each interval.
    Csv,
    /// Bytes received, sent, read and written so far, and an empty line: the original's file.
    IoOut,
    /// Rates in columns, for eyes.
    Table,
}

/// Writes rows in one format.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    format: Format,
    row_count: usize,
}

impl<W: Write> Writer<W> {
    /// Writes what stands before the first interval.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn new(sink: W, format: Format, totals: Totals) -> io::Result<Writer<W>> {
        let mut writer = Writer { sink, format, row_count: 0 };
        let names = Row::default().columns().map(|(name, _)| name);
        match format {
            Format::Csv => writer.put(&format!("{}\n", names.join(",")))?,
            Format::IoOut => writer.put(&io_out(totals))?,
            Format::Table => {}
        }
        Ok(writer)
    }

    /// Writes an interval.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn row(&mut self, row: &Row, totals: Totals) -> io::Result<()> {
        let text = match self.format {
            Format::Csv => {
                let values = row.columns().map(|(_, value)| value.to_string());
                format!("{}\n", values.join(","))
            }
            Format::IoOut => io_out(totals),
            Format::Table if self.row_count.is_multiple_of(TABLE_ROWS) => heading() + &line(row),
            Format::Table => line(row),
        };
        self.row_count += 1;
        self.put(&text)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(text.as_bytes())?; // I1
        self.sink.flush()
    }
}

/// As the original wrote it: totals, not differences.
fn io_out(totals: Totals) -> String {
    let Totals { received_bytes, sent_bytes, read_bytes, written_bytes } = totals;
    format!("{received_bytes}\n{sent_bytes}\n{read_bytes}\n{written_bytes}\n\n")
}

fn heading() -> String {
    let process = "PROCESS cpu%  sys%  anon MiB  file MiB  read KiB/s  write KiB/s  switch/s";
    format!("{process} | NET in KiB/s   out KiB/s | MACHINE cpu%  sys%  write KiB/s  flush/s\n")
}

fn line(row: &Row) -> String {
    let per_second = |count: u64| count.saturating_mul(1000) / row.interval_ms.max(1);
    let percent = |ms: u64| ms.saturating_mul(100) / row.interval_ms.max(1);
    let kib = |bytes| per_second(bytes) / KIB;
    format!(
        "{:>12}  {:>4}  {:>8}  {:>8}  {:>10}  {:>11}  {:>8} | {:>12}  {:>10} | {:>12}  {:>4}  {:>11}  {:>7}\n",
        percent(row.process_user_ms),
        percent(row.process_system_ms),
        row.process_anonymous_bytes / MIB,
        row.process_file_bytes / MIB,
        kib(row.process_read_bytes),
        kib(row.process_written_bytes),
        per_second(row.process_switch_count),
        kib(row.network_received_bytes),
        kib(row.network_sent_bytes),
        percent(row.machine_user_ms),
        percent(row.machine_system_ms),
        kib(row.machine_written_bytes),
        per_second(row.machine_flush_count),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTALS: Totals =
        Totals { received_bytes: 1, sent_bytes: 22, read_bytes: 333, written_bytes: 4444 };

    /// Takes note of each call.
    #[derive(Default)]
    struct Calls(Vec<String>);

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: Format) -> Vec<String> {
        let mut calls = Calls::default();
        let mut writer = Writer::new(&mut calls, format, TOTALS).unwrap();
        writer.row(&Row { unix_ms: 7, interval_ms: 1000, ..Row::default() }, TOTALS).unwrap();
        calls.0
    }

    #[test]
    fn io_out_is_four_totals_and_an_empty_line() {
        assert_eq!(written(Format::IoOut), ["1\n22\n333\n4444\n\n"; 2]);
    }

    #[test]
    fn csv_has_a_header_and_as_many_values_as_names() {
        let lines = written(Format::Csv);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("unix_ms,interval_ms,process_user_ms,"), "{}", lines[0]);
        assert!(lines[1].starts_with("7,1000,0,"), "{}", lines[1]);
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
    }

    #[test]
    fn every_call_of_the_sink_ends_a_line_and_columns_stand_under_their_names() {
        for format in [Format::Csv, Format::IoOut, Format::Table] {
            assert!(written(format).iter().all(|call| call.ends_with('\n')), "{format:?}");
        }
        let table = written(Format::Table).concat();
        let widths: Vec<usize> = table.lines().map(str::len).collect();
        assert_eq!(widths[0], widths[1], "{table}");
    }
}
