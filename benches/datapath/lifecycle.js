// Sessions as the public yardstick times them: create, connect, goto, release. Started by lifecycle.rs; reads one
// JSON object a line, and answers each with one.
//
//   {"run": KIND, "url": URL, "atOnce": N}  so many sessions at the same time: [{create, connect, page, goto, release}]
//   {"hold": KIND, "url": URL, "atOnce": N} opens so many, each with the page, and keeps them
//   {"drop": true}                          ends those
//
// KIND is "playwright", "cdp" for a browser of one's own, or "port" for one that others use too.

const http = require("node:http");
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const BODY = "<!doctype html><title>Example</title><h1>Example</h1><p>A page to be measured with.</p>";
const DEADLINE = 60_000;

let page;
let held = [];

// Calls it, and notes in ms how long that took.
async function timed(times, stage, does) {
  const start = performance.now();
  const made = await does();
  times[stage] = performance.now() - start;
  return made;
}

async function open(kind, url) {
  const times = {};
  if (kind === "playwright") {
    const browser = await timed(times, "connect", () => chromium.connect(url, { timeout: DEADLINE }));
    const tab = await timed(times, "page", () => browser.newPage());
    return { times, browser, tab };
  }
  const endpoint = await timed(times, "create", async () => {
    const answer = await fetch(`${url}/json/version`);
    return (await answer.json()).webSocketDebuggerUrl;
  });
  const browser = await timed(times, "connect", () =>
    chromium.connectOverCDP(endpoint, { timeout: DEADLINE }),
  );
  // A browser of one's own comes with a page.
  const tab = await timed(times, "page", async () =>
    kind === "cdp" ? browser.contexts()[0].pages()[0] : browser.newPage(),
  );
  return { times, browser, tab };
}

async function session(kind, url) {
  const { times, browser, tab } = await open(kind, url);
  await timed(times, "goto", () => tab.goto(page));
  await timed(times, "release", () => browser.close());
  return times;
}

async function hold(kind, url) {
  const { browser, tab } = await open(kind, url);
  await tab.goto(page);
  return browser;
}

async function answer({ run, hold: holds, url, atOnce }) {
  const many = (does) => Promise.all(Array.from({ length: atOnce }, does));
  if (run) return many(() => session(run, url));
  if (holds) {
    held = await many(() => hold(holds, url));
  } else {
    await Promise.all(held.map((browser) => browser.close()));
    held = [];
  }
  return [];
}

const server = http.createServer((_, response) => {
  response.setHeader("content-type", "text/html");
  response.end(BODY);
});
server.listen(0, "127.0.0.1", async () => {
  page = `http://127.0.0.1:${server.address().port}/`;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await answer(JSON.parse(line))));
  }
  process.exit(0);
});
