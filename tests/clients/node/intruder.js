// A session that tries to leave its browser: by Playwright's API, by its raw protocol, by CDP and as
// a page. Prints one JSON line for each attempt: who tried what, and what came of it. Where things
// are it is told by its environment, much better than any stranger would know.

const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");
const { GRID, SECRET, CONFIG, READABLE, PLANT, PORT, WORKER, FOLDERS, ADMIN, OTHER } = process.env;

// Milliseconds for what answers at once on a machine that is not busy.
const PATIENCE = 60000;

// What stands for success in the table; everything else is a refusal.
const tell = (by, attempt, answer) => console.log(JSON.stringify({ by, attempt, answer }));

// The one word that says why, out of a whole message.
function why(error) {
  const words = /ERR_[A-Z_]+|E(?:ACCES|PERM|NOENT|CONNREFUSED)|Not allowed|[Pp]ermission denied/;
  const found = words.exec(error.message);
  return "refused: " + (found ? found[0] : error.message.split("\n")[0]);
}

async function attempt(by, what, does) {
  try {
    tell(by, what, await does());
  } catch (error) {
    tell(by, what, why(error));
  }
}

// Chromium was seen to load the page of a folder for ever, once in many runs: another page is asked then.
async function opened(context, path) {
  for (let tries = 1; ; tries += 1) {
    const page = await context.newPage();
    try {
      await page.goto("file://" + path, { timeout: PATIENCE });
      return page;
    } catch (error) {
      if (tries === 3 || error.name !== "TimeoutError") throw error;
    }
  }
}

const read = (context, path) => async () => {
  const page = await opened(context, path);
  return (await page.evaluate(() => document.body.innerText)).trim() ? "read" : "nothing in it";
};

// The page of a folder calls this for each file. A folder that may not be listed looks empty.
const list = (context, path) => async () => {
  const page = await opened(context, path);
  return /addRow\("/.test(await page.content()) ? "listed" : "refused: nothing in it";
};

const written = (file) => (fs.existsSync(file) ? "written" : "refused: nothing written");

// What a page gets to see of a file that was put into its form.
async function uploaded(page, name) {
  const text = await page.evaluate(async (name) => {
    const files = [...document.querySelector("input").files];
    const file = files.find((file) => file.name === name);
    return file ? file.text().catch((error) => "!" + error.name) : "!nothing in it";
  }, name);
  return text.startsWith("!") ? "refused: " + text.slice(1) : "read";
}

async function main() {
  const browser = await chromium.connect(GRID);
  const context = await browser.newContext();
  const page = await context.newPage();
  const fresh = () => context.newPage();

  await attempt("API", "`browser.bind` opens a port", async () => {
    const { endpoint } = await browser.bind("title", { host: "127.0.0.1", port: Number(PORT) });
    await (await chromium.connect(endpoint)).close();
    return "opened, and others come in";
  });
  await attempt("API", "read `/etc/hostname`", read(context, "/etc/hostname"));
  await attempt("API", "read a folder of `worker.readable`", list(context, READABLE));
  await attempt("API", "read a secret beside the configuration", read(context, SECRET));
  await attempt("API", "list the worker's open files in `/proc`", list(context, `/proc/${WORKER}/fd`));
  await attempt("API", "list the browsers' folders", list(context, FOLDERS));
  await attempt("API", "list its user's home", list(context, os.userInfo().homedir));

  // By Node, in which the session's HTTP requests are made.
  const requested = (url) => async () => {
    const answer = await context.request.get(url, { timeout: PATIENCE });
    return answer.ok() ? "answered" : "refused: " + answer.status();
  };
  await attempt("API", "`request.get` asks the admin port for sessions", requested(ADMIN + "/v1/sessions"));
  await attempt("API", "`request.get` asks another worker for its path (`/json`)", requested(OTHER + "/json"));

  const download = async (path) => {
    const from = await fresh();
    await from.setContent('<a download="x" href="data:application/octet-stream,planted">x</a>');
    const [file] = await Promise.all([from.waitForEvent("download"), from.click("a")]);
    await file.path().catch(() => {});
    await file._artifact._channel.saveAs({ path }, { timeout: PATIENCE });
    return written(path);
  };
  await attempt("raw protocol", "`Artifact.saveAs` writes a file", () => download(PLANT + "/by-artifact"));
  await attempt("raw protocol", "`Artifact.saveAs` replaces the configuration", () => download(CONFIG));
  await attempt("raw protocol", "`Tracing.tracingStart` writes a file", async () => {
    const tracing = (await browser.newContext()).tracing._channel;
    const name = "../".repeat(20) + PLANT + "/by-trace";
    await tracing.tracingStart({ name, snapshots: true });
    await tracing.tracingStartChunk({});
    await tracing.tracingStopChunk({ mode: "entries" });
    return written(PLANT + "/by-trace.trace");
  });
  await attempt("raw protocol", "`ElementHandle.setInputFiles` uploads a folder", async () => {
    const victim = await fresh();
    await victim.setContent("<input type=file webkitdirectory>");
    const input = await victim.$("input");
    await input._channel.setInputFiles({ localDirectory: path.dirname(SECRET), timeout: PATIENCE });
    return uploaded(victim, "secret");
  });

  const cdp = await browser.newBrowserCDPSession();
  await attempt("CDP", "`Browser.setDownloadBehavior` to another folder", async () => {
    const { targetInfos } = await cdp.send("Target.getTargets");
    const browserContextId = targetInfos.find((target) => target.type === "page").browserContextId;
    const there = { behavior: "allow", downloadPath: PLANT, browserContextId, eventsEnabled: true };
    await cdp.send("Browser.setDownloadBehavior", there);
    const over = new Promise((resolve) => {
      cdp.on("Browser.downloadProgress", ({ state }) => state !== "inProgress" && resolve());
    });
    await page.goto("about:blank");
    await page.setContent('<a download="by-cdp" href="data:application/octet-stream,planted">x</a>');
    await page.click("a");
    await over;
    return written(PLANT + "/by-cdp");
  });
  await attempt("CDP", "`DOM.setFileInputFiles` uploads the configuration", async () => {
    const victim = await fresh();
    await victim.setContent("<input type=file>");
    const session = await context.newCDPSession(victim);
    const { root } = await session.send("DOM.getDocument");
    const { nodeId } = await session.send("DOM.querySelector", { nodeId: root.nodeId, selector: "input" });
    await session.send("DOM.setFileInputFiles", { nodeId, files: [CONFIG] });
    return uploaded(victim, path.basename(CONFIG));
  });

  const navigated = (path) => async () => {
    const victim = await fresh();
    const session = await context.newCDPSession(victim);
    const loaded = new Promise((resolve) => victim.once("load", resolve));
    const { errorText } = await session.send("Page.navigate", { url: "file://" + path });
    if (errorText) throw new Error(errorText);
    await loaded;
    const expression = "document.body.innerText";
    const { result } = await session.send("Runtime.evaluate", { expression });
    return result.value.trim() ? "read" : "refused: nothing in it";
  };
  await attempt("CDP", "`Page.navigate` to a secret beside the configuration", navigated(SECRET));

  const inside = await fresh();
  const fetched = (url) => async () => {
    const answer = await inside.goto(url, { timeout: PATIENCE });
    return answer.ok() ? "answered" : "refused: " + answer.status();
  };
  await attempt("page", "ask the admin port for sessions", fetched(ADMIN + "/v1/sessions"));
  await attempt("page", "ask another worker for its path (`/json`)", fetched(OTHER + "/json"));
  await attempt("page", "read a secret beside the configuration", async () => {
    await inside.goto("file:///etc/hostname", { timeout: PATIENCE });
    const read = await inside.evaluate(
      (url) => fetch(url).then((answer) => answer.text()).catch(() => ""),
      "file://" + SECRET,
    );
    return read ? "read" : "refused: no file of another page";
  });
  await attempt("page", "connect to another worker's browser", async () => {
    await inside.goto("about:blank");
    const opened = await inside.evaluate(
      (url) =>
        new Promise((resolve) => {
          const socket = new WebSocket(url);
          socket.onopen = () => resolve(true);
          socket.onerror = () => resolve(false);
        }),
      OTHER.replace("http", "ws") + "/",
    );
    return opened ? "opened" : "refused: no such path";
  });
  await browser.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
