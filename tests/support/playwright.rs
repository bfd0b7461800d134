//! Real Playwright clients: the drivers of `tests/clients`, and the programs of `examples`.

use super::machine::{examples, repository, tools};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

/// A page that needs no network, with a colour to recognise.
const PAGE: &str = "data:text/html,<title>Playhouse</title>\
    <body style='background:rgb(34,170,102)'><h1>It runs</h1>";
pub const TITLE: &str = "Playhouse";

/// Generous: a loaded machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    Node,
}

impl Language {
    pub const BOTH: [Language; 2] = [Language::Python, Language::Node];

    /// An interpreter that finds this version of Playwright.
    pub fn command(self, version: &str) -> Command {
        let playwright = tools(&format!("playwright-{version}"));
        let mut command = match self {
            Language::Python => Command::new(tools("python/bin/python")),
            Language::Node => Command::new(playwright.join("playwright/driver/node")),
        };
        match self {
            Language::Python => command.env("PYTHONPATH", &playwright),
            Language::Node => {
                let puppeteer = tools(&format!(
                    "puppeteer-{}",
                    super::version("PUPPETEER_VERSION")
                ));
                let modules = [playwright, puppeteer].map(|it| it.join("node_modules"));
                command.env(
                    "NODE_PATH",
                    std::env::join_paths(modules).expect("plain names"),
                )
            }
        };
        // Error texts without colours, whatever the terminal.
        command.env("NO_COLOR", "1").kill_on_drop(true);
        command
    }

    fn script(self, folder: &Path, name: &str) -> PathBuf {
        match self {
            Language::Python => folder.join("python").join(name).with_extension("py"),
            Language::Node => folder.join("node").join(name).with_extension("js"),
        }
    }
}

/// Runs a program of `tests/clients` to its end; its output, or, when it failed, a panic.
pub async fn run_client(language: Language, name: &str, arguments: &[&str]) -> String {
    let run = language
        .command(super::version("PLAYWRIGHT_VERSION"))
        .arg(language.script(&repository().join("tests/clients"), name))
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = run.await.expect("the interpreter starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{language:?} {name}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program of `examples` as its reader would; its output, or, when it failed, a panic.
pub async fn run_example(
    language: Language,
    name: &str,
    grid: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> String {
    let run = language
        .command(super::version("PLAYWRIGHT_VERSION"))
        .arg(language.script(&examples(""), name))
        .args(arguments)
        .env("GRID", grid)
        .env("PAGE", PAGE)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(2 * PATIENCE, run)
        .await
        .unwrap_or_else(|_| panic!("{language:?} {name} does not end"))
        .expect("the interpreter starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{language:?} {name} failed: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// What a client tells of a session it opened.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    pub title: String,
    /// The browser's own version.
    pub version: String,
    pub connect_ms: f64,
    /// From the first byte to the title of the page.
    pub page_ms: f64,
}

/// A screenshot as a browser sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub colours: u32,
    /// Red, green and blue of the pixel in the middle.
    pub middle: String,
}

impl Picture {
    /// Whether it shows [`PAGE`]: its colour, and something written on it.
    pub fn shows_the_page(&self) -> bool {
        self.middle == "34,170,102" && self.colours > 2
    }
}

/// A client with any number of sessions, each with a name.
pub struct Driver {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it said and nobody took yet.
    answers: watch::Sender<Vec<Value>>,
    folder: TempDir,
}

impl Driver {
    /// The current Playwright, for Chromium.
    pub fn start(language: Language, grid: &str) -> Self {
        Self::start_as(language, super::version("PLAYWRIGHT_VERSION"), grid, &[])
    }

    /// Options: `--browser firefox`, `--header name=value`.
    pub fn start_as(language: Language, version: &str, grid: &str, options: &[&str]) -> Self {
        Self::start_with(language, version, grid, options, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(
        language: Language,
        version: &str,
        grid: &str,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let errors = File::create(folder.path().join("stderr")).expect("a new file");
        let clients = repository().join("tests/clients");
        let mut child = language
            .command(version)
            .arg(language.script(&clients, "driver"))
            .arg(grid)
            .args(options)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the interpreter starts");
        let stdout = child.stdout.take().expect("it is piped");
        let answers = watch::Sender::default();
        tokio::spawn(listen(stdout, answers.clone()));
        Driver {
            stdin: child.stdin.take(),
            child,
            answers,
            folder,
        }
    }

    /// Opens a session and a page in it; the text of the error, if it failed.
    pub async fn open(&mut self, name: &str) -> Result<Opened, String> {
        self.start_open(name).await;
        self.opened(name).await
    }

    /// The same, with a page of the test's own.
    pub async fn open_page(&mut self, name: &str, address: &str) -> Result<Opened, String> {
        self.say(&format!("open {name} {address}")).await;
        self.opened(name).await
    }

    /// Opens sessions all at once; every one has to succeed.
    pub async fn open_all(&mut self, names: &[String]) -> Vec<Opened> {
        for name in names {
            self.start_open(name).await;
        }
        let mut all = Vec::new();
        for name in names {
            let opened = self.opened(name).await;
            all.push(opened.unwrap_or_else(|error| panic!("session {name}: {error}")));
        }
        all
    }

    /// Begins to open a session, without waiting for it.
    pub async fn start_open(&mut self, name: &str) {
        self.say(&format!("open {name} {PAGE}")).await;
    }

    /// How [`Driver::start_open`] ended.
    pub async fn opened(&self, name: &str) -> Result<Opened, String> {
        self.answer("open", name).await
    }

    /// Whether it ended at all.
    pub fn is_opened(&self, name: &str) -> bool {
        self.find("open", name).is_some()
    }

    /// Makes the browser calculate something.
    pub async fn works(&mut self, name: &str) -> Result<(), String> {
        self.say(&format!("use {name}")).await;
        let answer: Value = self.answer("use", name).await?;
        assert_eq!(answer["value"], 42);
        Ok(())
    }

    /// What a user reads who looks for something that is not there.
    pub async fn misses(&mut self, name: &str) -> String {
        self.say(&format!("miss {name}")).await;
        let answer: Value = self
            .answer("miss", name)
            .await
            .expect("the session is open");
        answer["words"]
            .as_str()
            .expect("an error's text")
            .to_owned()
    }

    /// Begins to have the page send `size` bytes at once. Nobody waits for how that ends.
    pub async fn start_fetch(&mut self, name: &str, size: usize) {
        self.say(&format!("fetch {name} {size}")).await;
    }

    pub async fn picture(&mut self, name: &str, file: &Path) -> Result<Picture, String> {
        self.say(&format!("picture {name} {}", file.display()))
            .await;
        self.answer("picture", name).await
    }

    pub async fn close(&mut self, name: &str) -> Result<(), String> {
        self.say(&format!("close {name}")).await;
        let _: Value = self.answer("close", name).await?;
        Ok(())
    }

    /// Whether the client was told that it lost this session.
    pub fn lost(&self, name: &str) -> bool {
        self.find("disconnect", name).is_some()
    }

    /// SIGKILL: nothing is closed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it is ours");
    }

    /// Closes everything and waits for the end.
    pub async fn quit(mut self) {
        drop(self.stdin.take());
        let end = tokio::time::timeout(PATIENCE, self.child.wait());
        let status = end.await.expect("it ends when its input does");
        assert!(status.expect("it is ours").success());
    }

    async fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open until it quits");
        let line = format!("{line}\n");
        stdin
            .write_all(line.as_bytes())
            .await
            .expect("the client listens");
    }

    fn find(&self, did: &str, name: &str) -> Option<usize> {
        position(&self.answers.borrow(), did, name)
    }

    /// Waits for an answer and takes it.
    async fn answer<T: DeserializeOwned>(&self, did: &str, name: &str) -> Result<T, String> {
        let mut heard = self.answers.subscribe();
        let there = heard.wait_for(|answers| position(answers, did, name).is_some());
        let there = tokio::time::timeout(PATIENCE, there).await.is_ok();
        assert!(there, "the client never answers to {did} {name}");
        let mut taken = Value::Null;
        self.answers.send_modify(|answers| {
            let there = position(answers, did, name).expect("nobody else takes it");
            taken = answers.remove(there);
        });
        match taken["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(serde_json::from_value(taken).expect("the driver's own form")),
        }
    }
}

fn position(answers: &[Value], did: &str, name: &str) -> Option<usize> {
    let is = |answer: &Value| answer["did"] == did && answer["name"] == name;
    answers.iter().position(is)
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let errors = std::fs::read_to_string(self.folder.path().join("stderr"));
            eprintln!("--- the client's stderr\n{}", errors.unwrap_or_default());
        }
    }
}

async fn listen(stdout: ChildStdout, answers: watch::Sender<Vec<Value>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = serde_json::from_str(&line).unwrap_or(Value::String(line));
        answers.send_modify(|answers| answers.push(answer));
    }
}
