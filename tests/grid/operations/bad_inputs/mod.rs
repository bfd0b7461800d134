//! Everything that is wrong on purpose, and the answer it gets: `docs/bad-inputs.md` is written by
//! the tests that try it. `PLAYHOUSE_REWRITE=1` writes it anew; without, it has to agree.

mod at_check;
mod at_ports;

use std::path::{Path, PathBuf};

/// One line of the table.
pub struct Row {
    pub input: String,
    pub answer: String,
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bad-inputs.md")
}

const OPENING: &str = "\
# Bad inputs

What Playhouse says to input that is wrong. Written by the tests that try each of them
(`tests/grid/operations/bad_inputs`, `PLAYHOUSE_REWRITE=1 cargo test bad_inputs`), so it is what the
program does.
";

/// For a cell of a table.
fn cell(text: &str) -> String {
    text.trim().replace('|', "\\|").replace('\n', "<br>")
}

fn section(title: &str, about: &str, rows: &[Row]) -> String {
    let mut text = format!("\n## {title}\n\n{about}\n\n| input | answer |\n|---|---|\n");
    for row in rows {
        text.push_str(&format!(
            "| {} | {} |\n",
            cell(&row.input),
            cell(&row.answer)
        ));
    }
    text
}

#[tokio::test]
async fn every_bad_input_gets_the_answer_that_the_table_tells() {
    let sections = [
        section(
            "Configuration",
            "`playhouse check` and every other command, before anything is bound; exit code 78.",
            &at_check::configuration().await,
        ),
        section(
            "Environment",
            "The same for variables.",
            &at_check::environment().await,
        ),
        section(
            "TLS",
            "At `check` and start (exit code 78), at a reload (the old one stays in force), and by clients.",
            &at_check::tls().await,
        ),
        section(
            "HTTP on the data port",
            "What is shown is the status and the message; Playwright's clients get it as plain text, others as JSON.",
            &at_ports::http().await,
        ),
        section(
            "WebSocket on the data port",
            "Upgrades, refused before they are accepted.",
            &at_ports::websocket().await,
        ),
        section(
            "Admin port",
            "The same, always as JSON.",
            &at_ports::admin().await,
        ),
    ];
    let written = format!("{OPENING}{}", sections.concat());
    let rows = written
        .lines()
        .filter(|line| line.starts_with("| "))
        .count()
        - sections.len();
    assert!(rows >= 60, "{rows} bad inputs are not many");
    if std::env::var_os("PLAYHOUSE_REWRITE").is_some() {
        std::fs::write(file(), &written).unwrap();
    }
    let told = std::fs::read_to_string(file()).unwrap_or_default();
    for (is, was) in written.lines().zip(told.lines()) {
        assert_eq!(is, was, "docs/bad-inputs.md tells something else");
    }
    assert_eq!(written.lines().count(), told.lines().count());
}
