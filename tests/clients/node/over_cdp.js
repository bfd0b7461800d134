// What Playwright's `connectOverCDP` can do, tried on a grid or on a browser with a port of its own. Prints what
// came of it, so that the two can be compared.
//
// usage: over_cdp.js grid http://HOST:PORT
//        over_cdp.js plain EXECUTABLE

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "over-cdp-"));

// A site with the pages that are visited.
const PAGES = {
  "/": ["text/html", "<title>Site</title><h1>It runs</h1>"],
  "/form": ["text/html", "<title>Form</title><input type=file multiple>"],
  "/frame": ["text/html", '<title>Frames</title><iframe src="/"></iframe>'],
  "/get": ["text/html", '<a href="/file">get it</a>'],
  "/file": ["application/octet-stream", "from there", { "Content-Disposition": "attachment; filename=note.txt" }],
  "/served": ["text/html", '<script>navigator.serviceWorker.register("/worker.js")</script>'],
  "/worker.js": ["text/javascript", 'self.addEventListener("fetch", () => {})'],
};

function serve(answer) {
  return new Promise((resolve) => {
    const server = http.createServer(answer);
    server.listen(0, "127.0.0.1", () => {
      server.unref();
      resolve(`http://127.0.0.1:${server.address().port}`);
    });
  });
}

// A browser of one scenario, with a port of its own.
async function plain(executable) {
  const profile = fs.mkdtempSync(path.join(folder, "profile-"));
  const port = path.join(profile, "DevToolsActivePort");
  const browser = spawn(executable, [
    "--headless",
    "--no-sandbox",
    "--remote-debugging-port=0",
    `--user-data-dir=${profile}`,
    "about:blank",
  ]);
  const ended = new Promise((resolve) => browser.once("exit", resolve));
  while (!fs.existsSync(port) || !fs.readFileSync(port, "utf8").includes("\n"))
    await new Promise((resolve) => setTimeout(resolve, 20));
  const address = `http://127.0.0.1:${fs.readFileSync(port, "utf8").split("\n")[0]}`;
  const end = () => {
    browser.kill("SIGKILL");
    return ended;
  };
  return { address, end };
}

const words = (error) => error.message.split("\n")[0].replace(/^.*?connectOverCDP: /, "");
const failure = (promise) => promise.then(() => "it went well", words);

async function version(address) {
  return (await fetch(`${address}/json/version`)).json();
}

const discovered = async (address) => (await version(address)).webSocketDebuggerUrl;

const scenarios = {
  // Each way to name the browser. An address that was discovered is asked for each time.
  async addresses({ address }) {
    const contexts = [];
    const ways = [
      [address],
      [`${address}/`],
      [address.replace("127.0.0.1", "localhost")],
      [{ endpointURL: address, slowMo: 1, timeout: 60000, headers: { "x-mine": "1" } }],
      [await discovered(address)],
      [{ wsEndpoint: await discovered(address) }],
    ];
    for (const way of ways) {
      const browser = await chromium.connectOverCDP(...way);
      contexts.push(browser.contexts().length);
      await browser.close();
    }
    // How files are named is told by newer browsers, and nobody is told by the command of the protocol.
    const { webSocketDebuggerUrl, "File-Path-Style": style, ...told } = await version(address);
    return {
      contexts,
      told,
      nowhere: (await failure(chromium.connectOverCDP(`${address}/nowhere`))).replaceAll(address, ""),
      impatient: await failure(chromium.connectOverCDP(address, { timeout: 1 })),
    };
  },

  async contexts({ address, site }) {
    const proxy = await serve((_, answer) => answer.end("<title>By the proxy</title>"));
    const browser = await chromium.connectOverCDP(address);
    const [first] = browser.contexts();
    const seen = { pages: first.pages().map((page) => page.url()) };
    seen.belongs = first.browser() === browser;
    const page = await first.newPage();
    await page.goto(site);
    await first.addCookies([{ name: "kept", value: "yes", url: site }]);
    await page.evaluate(() => localStorage.setItem("kept", "too"));
    const sibling = await first.newPage();
    await sibling.goto(site);
    seen.sibling = await sibling.evaluate(() => [document.cookie, localStorage.getItem("kept")]);
    const state = await first.storageState();
    seen.state = [state.cookies.length, state.origins.length];

    const other = await browser.newContext({
      locale: "de-DE",
      timezoneId: "Asia/Tokyo",
      viewport: { width: 321, height: 234 },
      userAgent: "mine/1.0",
      colorScheme: "dark",
      extraHTTPHeaders: { "x-mine": "yes" },
      geolocation: { latitude: 1, longitude: 2 },
      permissions: ["geolocation"],
      httpCredentials: { username: "a", password: "b" },
      storageState: state,
    });
    const there = await other.newPage();
    const request = there.waitForRequest(site + "/");
    await there.goto(site);
    seen.header = (await (await request).allHeaders())["x-mine"];
    seen.options = await there.evaluate(async () => ({
      language: navigator.language,
      number: (1.5).toLocaleString(),
      zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      size: [innerWidth, innerHeight],
      agent: navigator.userAgent,
      dark: matchMedia("(prefers-color-scheme: dark)").matches,
      place: await new Promise((resolve) =>
        navigator.geolocation.getCurrentPosition((at) => resolve(at.coords.latitude), () => resolve("none")),
      ),
      cookie: document.cookie,
      focus: document.hasFocus(),
    }));
    await there.emulateMedia({ media: "print" });
    seen.print = await there.evaluate(() => matchMedia("print").matches);
    await other.setOffline(true);
    seen.offline = await there.evaluate(() => navigator.onLine);
    seen.contexts = browser.contexts().length;
    await other.close();
    seen.contextsLeft = browser.contexts().length;

    const proxied = await browser.newContext({ proxy: { server: proxy } });
    const far = await proxied.newPage();
    await far.goto("http://nowhere.example/");
    seen.proxied = await far.title();
    const events = [];
    browser.on("disconnected", () => events.push("disconnected"));
    await browser.close();
    seen.ended = [browser.isConnected(), events, await failure(page.title())];
    return seen;
  },

  async pages({ address, site }) {
    const browser = await chromium.connectOverCDP(address, { noDefaults: false });
    const [context] = browser.contexts();
    const page = await context.newPage();
    const seen = {};
    await page.exposeFunction("twice", (number) => 2 * number);
    await context.exposeBinding("whose", ({ page: caller }) => caller === page);
    await page.addInitScript(() => (globalThis.before = "set"));
    await page.goto(site);
    seen.bound = await page.evaluate(async () => [await twice(21), await whose(), before]);
    page.once("dialog", (dialog) => dialog.accept("answered"));
    seen.dialog = await page.evaluate(() => prompt("?"));
    const [popup] = await Promise.all([page.waitForEvent("popup"), page.evaluate(() => void open("/frame"))]);
    await popup.waitForLoadState();
    seen.popup = [await popup.title(), await popup.frames()[1].title()];
    const [message] = await Promise.all([page.waitForEvent("console"), page.evaluate(() => console.log("said"))]);
    seen.console = message.text();
    await page.routeWebSocket("ws://nowhere.example/", (socket) => socket.onMessage((text) => socket.send(text + "!")));
    seen.socket = await page.evaluate(
      () =>
        new Promise((resolve) => {
          const socket = new WebSocket("ws://nowhere.example/");
          socket.onopen = () => socket.send("heard");
          socket.onmessage = (event) => resolve(event.data);
        }),
    );
    const worker = context.waitForEvent("serviceworker");
    await page.goto(site + "/served");
    seen.serviceWorker = await (await worker).evaluate(() => String(self));

    const files = ["a.txt", "b.txt"].map((name) => path.join(folder, name));
    files.forEach((file) => fs.writeFileSync(file, "in " + path.basename(file)));
    await page.goto(site + "/form");
    await page.setInputFiles("input", files);
    seen.uploaded = await page.evaluate(() =>
      Promise.all([...document.querySelector("input").files].map(async (it) => [it.name, await it.text()])),
    );
    const large = path.join(folder, "large");
    fs.closeSync(fs.openSync(large, "w"));
    fs.truncateSync(large, 51 << 20);
    seen.large = (await failure(page.setInputFiles("input", large))).replace(folder, "");

    await page.goto(site + "/get");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("a")]);
    seen.download = [download.suggestedFilename(), download.url().replace(site, ""), await download.failure()];
    seen.saved = await failure(download.saveAs(path.join(folder, "saved")));

    const session = await context.newCDPSession(page);
    seen.session = (await session.send("Runtime.evaluate", { expression: "6 * 7" })).result.value;
    const ofBrowser = await browser.newBrowserCDPSession();
    seen.version = (await ofBrowser.send("Browser.getVersion")).protocolVersion;
    await browser.close();
    return seen;
  },

  async recordings({ address, site }) {
    const artifactsDir = path.join(folder, "artifacts");
    fs.mkdirSync(artifactsDir, { recursive: true });
    const browser = await chromium.connectOverCDP(address, { artifactsDir });
    const [context] = browser.contexts();
    const trace = path.join(folder, "trace.zip");
    await context.tracing.start({ screenshots: true, snapshots: true, sources: true });
    const page = await context.newPage();
    await page.goto(site);
    await context.tracing.stop({ path: trace });
    await browser.startTracing(page);
    await page.reload();
    const events = JSON.parse(await browser.stopTracing()).traceEvents.length;
    const har = path.join(folder, "log.har");
    const recorded = await browser.newContext({ recordHar: { path: har } });
    await (await recorded.newPage()).goto(site);
    await recorded.close();
    const filmed = await browser.newContext({ recordVideo: { dir: folder } });
    // With or without an ffmpeg on the client's machine, which is where it is looked for.
    const film = await filmed.newPage().then(async (page) => {
      await page.goto(site);
      await filmed.close();
      return fs.statSync(await page.video().path()).size > 0;
    }, words);
    await browser.close();
    return {
      trace: fs.readFileSync(trace).subarray(0, 2).toString(),
      events: events > 10,
      har: JSON.parse(fs.readFileSync(har)).log.entries.length,
      film,
    };
  },

  // A browser that ends by itself.
  async ends({ address, site }) {
    const browser = await chromium.connectOverCDP(address);
    const page = await browser.contexts()[0].newPage();
    await page.goto(site);
    const gone = new Promise((resolve) => browser.once("disconnected", resolve));
    const waiting = failure(page.evaluate(() => new Promise(() => {})));
    const session = await browser.newBrowserCDPSession();
    await session.send("Browser.close").catch(() => {});
    await gone;
    return { waiting: await waiting, connected: browser.isConnected() };
  },
};

async function main() {
  const [kind, where] = process.argv.slice(2);
  const site = await serve((request, answer) => {
    const [type, body, headers] = PAGES[new URL(request.url, "http://x").pathname] ?? ["text/plain", ""];
    answer.writeHead(200, { "Content-Type": type, ...headers });
    answer.end(body);
  });
  const seen = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    const { address, end } = kind === "plain" ? await plain(where) : { address: where, end() {} };
    seen[name] = await scenario({ address, site });
    await end();
  }
  console.log(JSON.stringify(seen));
}

main()
  .finally(() => fs.rmSync(folder, { recursive: true, force: true }))
  .then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
