//! The pod that a worker runs in.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest name that Kubernetes gives anything.
const MAX_NAME: usize = 253;

/// `namespace/name`. Nothing but a name of Kubernetes can be in it: it becomes part of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pod {
    pub namespace: String,
    pub name: String,
}

/// A text that names no pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pod such as browsers/worker-7d9f")]
pub struct NoPod;

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for Pod {
    type Err = NoPod;

    fn from_str(text: &str) -> Result<Self, NoPod> {
        let (namespace, name) = text.split_once('/').ok_or(NoPod)?;
        let is_name = |text: &str| {
            let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c);
            let ends = [text.bytes().next(), text.bytes().last()];
            text.len() <= MAX_NAME
                && text.bytes().all(inner)
                && ends
                    .iter()
                    .all(|end| end.is_some_and(|c| c.is_ascii_alphanumeric()))
        };
        if !is_name(namespace) || !is_name(name) {
            return Err(NoPod);
        }
        Ok(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl From<Pod> for String {
    fn from(pod: Pod) -> String {
        pod.to_string()
    }
}

impl TryFrom<String> for Pod {
    type Error = NoPod;

    fn try_from(text: String) -> Result<Self, NoPod> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_kubernetes_name_a_pod() {
        let pod: Pod = "browsers/worker-7d9f.x".parse().unwrap();
        assert_eq!(pod.to_string(), "browsers/worker-7d9f.x");
        for text in [
            "", "a", "a/", "/a", "a/b/c", "a/../b", "a/B", "a/b?c", "a/-b", "a/b%2f",
        ] {
            assert_eq!(text.parse::<Pod>(), Err(NoPod), "{text}");
        }
    }
}
