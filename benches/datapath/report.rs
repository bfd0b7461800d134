//! What was measured, as a table and as raw numbers: medians over the repeats, and ratios that are
//! medians of the ratios within each repeat, so that a busy moment of the machine weighs on both
//! sides of a ratio.

use crate::measure::{Row, Values};
use crate::proxies::Kind;
use std::collections::BTreeMap;
use std::fmt::Write;

/// All values: by line of the table, then by what was measured, then one a repeat.
#[derive(Default)]
pub struct Report {
    values: BTreeMap<Row, BTreeMap<String, Vec<f64>>>,
    /// Columns, in their order.
    names: Vec<String>,
    raw: String,
    /// Tables of another shape, with what they show.
    others: Vec<String>,
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
    /// What this has to be with workers that are registered in Redis, if that is told.
    fn with_redis(self) -> Option<Target> {
        match self {
            Row::ConnectsPerSecond => Some(Target::AtLeast(0.95)),
            Row::CpuPerConnect => Some(Target::AtMost(1.15)),
            Row::IdleMemory => Some(Target::Below(2.6)),
            Row::CrowdP50 | Row::CrowdP99 | Row::AloneP50 | Row::AloneP99 | Row::RedisCpu => {
                Some(Target::None)
            }
            _ => None,
        }
    }

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
            Row::RedisCpu => ("Redis' CPU per connection, µs", None),
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

    /// Adds a table of another shape, and its raw numbers.
    pub fn add_table(&mut self, table: String, raw: &str) {
        self.others.push(table);
        self.raw.push_str(raw);
    }

    /// All tables.
    pub fn tables(&self) -> String {
        let mut tables = match self.values.is_empty() {
            true => Vec::new(),
            false => vec![self.table()],
        };
        tables.extend(self.others.iter().cloned());
        tables.join("\n")
    }

    /// The table, in Markdown. The first HAProxy is what Playhouse is compared with.
    fn table(&self) -> String {
        let mut table = String::from("| |");
        for name in self.columns() {
            let _ = write!(table, " {name} |");
        }
        table.push_str(" Playhouse to HAProxy | target |\n|---|");
        table.push_str(&"---:|".repeat(self.columns().count() + 1));
        table.push_str("---|\n");
        for row in self.values.keys() {
            let (what, target) = row.describe();
            if self.columns().any(|name| self.of(*row, name).is_some()) {
                self.line(*row, what, target, "", &mut table);
            }
            if let Some(target) = row.with_redis()
                && self
                    .names
                    .iter()
                    .any(|name| name.ends_with(Kind::WITH_REDIS))
            {
                let what = format!("**with Redis**: {what}");
                self.line(*row, &what, target, Kind::WITH_REDIS, &mut table);
            }
        }
        table
    }

    /// The names of what was measured, each once: with Redis it has rows of its own.
    fn columns(&self) -> impl Iterator<Item = &String> {
        let names = self.names.iter();
        names.filter(|name| !name.ends_with(Kind::WITH_REDIS))
    }

    /// A line with the values of those of each name that have `suffix`, if there are such.
    fn line(&self, row: Row, what: &str, target: Target, suffix: &str, table: &mut String) {
        let _ = write!(table, "| {what} |");
        let values = |name: &str| {
            let with = self.names.contains(&format!("{name}{suffix}"));
            match with {
                true => self.of(row, &format!("{name}{suffix}")),
                false if name.contains("Playhouse") || name.starts_with("other") => None,
                false => self.of(row, name),
            }
        };
        for name in self.columns() {
            match values(name) {
                Some(values) => {
                    let _ = write!(table, " {} |", digits(median(values)));
                }
                None => table.push_str(" |"),
            }
        }
        let haproxy = self.names.iter().find(|name| name.starts_with("HAProxy"));
        let ours = values("Playhouse");
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
pub fn digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
