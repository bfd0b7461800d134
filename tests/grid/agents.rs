//! Agents: programs that drive a browser for a language model, by Playwright's own protocol.

use crate::support::{Grid, Language, run_client, tools, version};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The hash of `sesame`.
const TOKEN: &str = "auth: { tokens: [ { name: agents, sha256: \"d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272\" } ] }";
const PAGE: &str = "data:text/html,<title>Agent</title><h1>It-runs</h1>";

/// The command line of the `playwright` package.
fn cli() -> PathBuf {
    let runner = tools(&format!("runner-{}", version("PLAYWRIGHT_VERSION")));
    runner.join("node_modules/playwright/cli.js")
}

/// Runs a command of `playwright cli`, with what it keeps in this folder.
async fn playwright_cli(folder: &Path, arguments: &[&str]) -> String {
    let session = format!("-s=playhouse-{}", std::process::id());
    let mut command = Language::Node.command(version("PLAYWRIGHT_VERSION"));
    let run = command
        .arg(cli())
        .args(["cli", &session])
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .output();
    let output = run.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    said
}

#[tokio::test]
async fn the_command_line_and_the_mcp_server_of_playwright_use_the_grid() {
    let grid = Grid::new().workers(1).config(TOKEN).start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();

    let endpoint = format!("--endpoint={}/?token=sesame", grid.url());
    playwright_cli(folder, &["attach", &endpoint]).await;
    assert_eq!(
        grid.sessions().await.len(),
        1,
        "it stays between the commands"
    );
    playwright_cli(folder, &["goto", PAGE]).await;
    let seen = playwright_cli(folder, &["snapshot"]).await;
    assert!(seen.contains("heading \"It-runs\""), "{seen}");
    playwright_cli(folder, &["detach"]).await;
    grid.idle().await;

    let config = folder.join("mcp.json");
    let text = json!({ "browser": {
        "remoteEndpoint": grid.url(),
        "remoteHeaders": { "Authorization": "Bearer sesame" },
    } });
    std::fs::write(&config, text.to_string()).unwrap();
    let arguments = [cli(), config].map(|path| path.to_str().unwrap().to_owned());
    let arguments = arguments.each_ref().map(String::as_str);
    let seen = run_client(Language::Node, "mcp", &arguments).await;
    assert!(seen.contains("heading \"It runs\""), "{seen}");
    grid.idle().await;
}
