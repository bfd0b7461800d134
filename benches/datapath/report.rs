//! What was measured, as a table and as raw numbers: medians over the repeats, and ratios that are
//! medians of the ratios within each repeat, so that a busy moment of the machine weighs on both
//! sides of a ratio.

use crate::measure::{Row, Values};
use std::collections::BTreeMap;
use std::fmt::Write;

/// All values: by line of the table, then by what was measured, then one a repeat.
#[derive(Default)]
pub struct Report {
    values: BTreeMap<Row, BTreeMap<String, Vec<f64>>>,
    /// Columns, in their order.
    names: Vec<String>,
    raw: String,
}

/// What a ratio has to be.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Of Playhouse's value to HAProxy's.
    AtMost(f64),
    AtLeast(f64),
    /// Of Playhouse's value itself.
    Below(f64),
    /// Of Playhouse's value above the direct one.
    Above(f64),
    None,
}

impl Row {
    fn describe(self) -> (&'static str, Target) {
        use Target::*;
        match self {
            Row::ConnectsPerSecond => ("connections/s", AtLeast(1.0)),
            Row::CpuPerConnect => ("CPU per connection, µs", AtMost(0.9)),
            Row::CrowdP50 => ("connect p50, 64 at once, ms", None),
            Row::CrowdP99 => ("connect p99, 64 at once, ms", None),
            Row::AloneP50 => ("connect p50, one at a time, µs", None),
            Row::AloneP99 => ("connect p99, one at a time, µs", None),
            Row::SmallCpu => ("CPU per 256 B message, µs", AtMost(0.85)),
            Row::SmallPerSecond => ("256 B messages/s, 32 sessions", None),
            Row::RoundTripP50 => ("256 B round trip p50, µs", None),
            Row::RoundTripP99 => ("256 B round trip p99, µs", None),
            Row::Cpu64K => ("CPU per GB, 64 KiB messages, s", AtMost(0.45)),
            Row::Rate64K => ("GB/s, 64 KiB messages", None),
            Row::Cpu1M => ("CPU per GB, 1 MiB messages, s", AtMost(0.5)),
            Row::Rate1M => ("GB/s, 1 MiB messages", None),
            Row::IdleMemory => ("memory per idle session, KiB", Below(2.5)),
            Row::FirstPage => ("Chromium: time to first page p50, ms", Above(1.0)),
            Row::Evaluate => ("Chromium: evaluate round trip p50, ms", None),
            Row::SessionsPerSecond => ("Chromium: sessions/s", None),
        }
    }
}

impl Report {
    pub fn new(names: Vec<String>) -> Report {
        Report {
            names,
            ..Report::default()
        }
    }

    pub fn add(&mut self, repeat: usize, name: &str, values: Values) {
        for (row, value) in values {
            let (what, _) = row.describe();
            let _ = writeln!(self.raw, "{repeat}\t{name}\t{what}\t{value:.4}");
            let of_row = self.values.entry(row).or_default();
            of_row.entry(name.to_owned()).or_default().push(value);
        }
    }

    /// One line a value: repeat, name, what, value.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The table, in Markdown. The first HAProxy is what Playhouse is compared with.
    pub fn table(&self) -> String {
        let mut table = String::from("| |");
        for name in &self.names {
            let _ = write!(table, " {name} |");
        }
        table.push_str(" Playhouse to HAProxy | target |\n|---|");
        table.push_str(&"---:|".repeat(self.names.len() + 1));
        table.push_str("---|\n");
        for row in self.values.keys() {
            self.line(*row, &mut table);
        }
        table
    }

    fn line(&self, row: Row, table: &mut String) {
        let (what, target) = row.describe();
        let _ = write!(table, "| {what} |");
        for name in &self.names {
            match self.of(row, name) {
                Some(values) => {
                    let _ = write!(table, " {} |", digits(median(values)));
                }
                None => table.push_str(" |"),
            }
        }
        let haproxy = self.names.iter().find(|name| name.starts_with("HAProxy"));
        let ours = self.of(row, "Playhouse");
        let ratio = ours.zip(haproxy.and_then(|name| self.of(row, name)));
        let ratio = ratio.map(|(ours, theirs)| {
            let pairs: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
            median(&pairs)
        });
        match ratio {
            Some(ratio) => {
                let _ = write!(table, " {ratio:.2} |");
            }
            None => table.push_str(" |"),
        }
        let above = ours.zip(self.of(row, "direct")).map(|(ours, direct)| {
            let pairs: Vec<f64> = ours.iter().zip(direct).map(|(a, b)| a - b).collect();
            median(&pairs)
        });
        let (goal, reached) = match target {
            Target::None => (String::new(), None),
            Target::AtMost(most) => (format!("≤ {most}"), ratio.map(|ratio| ratio <= most)),
            Target::AtLeast(least) => (format!("≥ {least}"), ratio.map(|ratio| ratio >= least)),
            Target::Below(most) => {
                let met = ours.map(|ours| median(ours) <= most);
                (format!("≤ {most} KiB"), met)
            }
            Target::Above(most) => {
                let by = above.map_or(String::new(), |above| format!(" (is {above:+.1})"));
                let met = above.map(|above| above <= most);
                (format!("≤ direct + {most} ms{by}"), met)
            }
        };
        let verdict = match reached {
            Some(true) => ": met",
            Some(false) => ": **missed**",
            None => "",
        };
        let _ = writeln!(table, " {goal}{verdict} |");
    }

    fn of(&self, row: Row, name: &str) -> Option<&[f64]> {
        Some(self.values.get(&row)?.get(name)?)
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

/// Three digits that matter.
fn digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
