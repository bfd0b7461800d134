// An agent's side of Playwright's MCP server: starts it, opens a page, and says what the server sees there.
//
// usage: mcp.js CLI CONFIG

const { spawn } = require("node:child_process");
const path = require("node:path");
const readline = require("node:readline");

const [cli, config] = process.argv.slice(2);
const server = spawn(process.execPath, [cli, "mcp", "--config", config], {
  // It keeps files where it runs.
  cwd: path.dirname(config),
  stdio: ["pipe", "pipe", "inherit"],
});
const waiting = new Map();
let last = 0;

readline.createInterface({ input: server.stdout }).on("line", (line) => {
  const message = JSON.parse(line);
  waiting.get(message.id)?.(message);
});

function send(message) {
  server.stdin.write(JSON.stringify({ jsonrpc: "2.0", ...message }) + "\n");
}

function ask(method, params) {
  const id = ++last;
  send({ id, method, params });
  return new Promise((resolve) => waiting.set(id, resolve));
}

async function call(name, parameters) {
  const { result, error } = await ask("tools/call", { name, arguments: parameters });
  if (error || result.isError) throw new Error(JSON.stringify(error ?? result.content));
  return result.content.map((part) => part.text).join("\n");
}

async function main() {
  await ask("initialize", {
    protocolVersion: "2025-06-18",
    capabilities: {},
    clientInfo: { name: "agent", version: "1" },
  });
  send({ method: "notifications/initialized" });
  await call("browser_navigate", { url: "data:text/html,<title>Agent</title><h1>It runs</h1>" });
  console.log(await call("browser_snapshot", {}));
}

main()
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  })
  .finally(() => server.stdin.end());
