//! Metrics as Prometheus sees them: read and parsed by its own Python library.

use super::machine::{script, tools};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::Command;

/// All families by name, prefix included.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scrape {
    pub content_type: String,
    pub families: BTreeMap<String, Family>,
}

#[derive(Debug, Deserialize)]
pub struct Family {
    pub r#type: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Scrape {
    /// Reads an address; without `accept`, as Prometheus asks for it.
    pub fn of(url: &str, accept: &[&str]) -> Scrape {
        let output = Command::new(tools("python/bin/python"))
            .arg(script("python/scrape.py"))
            .arg(url)
            .args(accept)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{url} cannot be parsed: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// By its name in the contract, without prefix.
    pub fn family(&self, name: &str) -> &Family {
        // Both parsers name a counter without its suffix.
        let base = name.strip_suffix("_total").unwrap_or(name);
        let family = self.families.get(&format!("playhouse_{base}"));
        family.unwrap_or_else(|| panic!("there is no playhouse_{name}"))
    }

    /// Every series of that name, not those of a histogram's parts.
    pub fn all(&self, name: &str) -> Vec<&Sample> {
        let full = format!("playhouse_{name}");
        let samples = self.family(name).samples.iter();
        samples.filter(|sample| sample.name == full).collect()
    }

    /// The first series that has these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&&Sample| {
            labels
                .iter()
                .all(|(name, value)| sample.labels.get(*name).is_some_and(|it| it == value))
        };
        self.all(name).iter().find(has).map(|sample| sample.value)
    }
}
