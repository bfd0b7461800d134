//! What the Helm chart makes of values: read from what `helm template` prints, never from what the
//! templates look like.

use super::machine::{program, repository, tools};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

pub struct Chart {
    manifests: Vec<Value>,
}

impl Chart {
    /// Of the release `grid` in the namespace `browsers`.
    pub fn render(values: &str) -> Chart {
        let yaml = piped(
            Command::new(program("helm"))
                .args([
                    "template",
                    "grid",
                    "--namespace",
                    "browsers",
                    "--values",
                    "-",
                ])
                .arg(repository().join("deploy/helm/playhouse")),
            values,
        );
        let to_json =
            "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
        let json = piped(
            Command::new(tools("python/bin/python")).args(["-c", to_json]),
            &yaml,
        );
        Chart {
            manifests: serde_json::from_str(&json).expect("a list of documents"),
        }
    }

    /// The manifest of this kind with this name.
    pub fn manifest(&self, kind: &str, name: &str) -> &Value {
        let named = |it: &&Value| it["kind"] == kind && it["metadata"]["name"] == name;
        let found = self.manifests.iter().find(named);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// Playhouse's own configuration.
    pub fn configuration(&self) -> &str {
        let config = &self.manifest("ConfigMap", "grid-playhouse")["data"]["playhouse.yaml"];
        config.as_str().expect("it is a text")
    }
}

fn piped(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`make setup` installed it");
    let mut stdin = child.stdin.take().expect("it was asked for");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writer
        .join()
        .expect("it does not panic")
        .expect("it reads all");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("it is text")
}
