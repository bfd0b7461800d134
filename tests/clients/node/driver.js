// The same as driver.py, in Node: a user of Playwright whose every move the tests decide. What it
// reads and what it answers is described there.

const readline = require("node:readline");
const { parseArgs } = require("node:util");
const playwright = require("playwright-core");

// See driver.py.
async function look(base64) {
  const image = new Image();
  image.src = "data:image/png;base64," + base64;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const pixel = (n) => data.slice(4 * n, 4 * n + 3).join(",");
  const colours = new Set();
  for (let n = 0; n < image.width * image.height; n++) colours.add(pixel(n));
  const middle = pixel((image.height >> 1) * image.width + (image.width >> 1));
  return { width: image.width, height: image.height, middle, colours: colours.size };
}

// See driver.py.
function noise(size) {
  let text = "";
  const block = new Uint8Array(30000);
  while (text.length < size) {
    crypto.getRandomValues(block);
    text += btoa(String.fromCharCode(...block));
  }
  return text;
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    browser: { type: "string", default: "chromium" },
    header: { type: "string", multiple: true, default: [] },
  },
});
const [grid] = positionals;
const headers = Object.fromEntries(
  values.header.map((header) => [
    header.slice(0, header.indexOf("=")),
    header.slice(header.indexOf("=") + 1),
  ]),
);
const sessions = new Map();

function tell(did, name, more) {
  console.log(JSON.stringify({ did, name, ...more }));
}

const commands = {
  async open(name, address) {
    const start = performance.now();
    const browser = await playwright[values.browser].connect(grid, { headers });
    const connectMs = performance.now() - start;
    browser.on("disconnected", () => tell("disconnect", name));
    const page = await browser.newPage();
    sessions.set(name, { browser, page });
    await page.goto(address);
    const title = await page.title();
    return { title, version: browser.version(), connectMs, pageMs: performance.now() - start };
  },
  async use(name) {
    return { value: await sessions.get(name).page.evaluate(() => 6 * 7) };
  },
  async miss(name) {
    const { page } = sessions.get(name);
    const button = page.getByRole("button", { name: "nowhere" });
    return button.click({ timeout: 1 }).catch((error) => ({ words: error.message }));
  },
  async fetch(name, size) {
    const { page } = sessions.get(name);
    return { length: (await page.evaluate(noise, Number(size))).length };
  },
  async picture(name, path) {
    const { page } = sessions.get(name);
    const picture = await page.screenshot({ path });
    return await page.evaluate(look, picture.toString("base64"));
  },
  async close(name) {
    await sessions.get(name).browser.close();
    sessions.delete(name);
  },
};

async function run(command, name, argument) {
  try {
    tell(command, name, await commands[command](name, argument));
  } catch (error) {
    tell(command, name, { error: error.message });
  }
}

const input = readline.createInterface({ input: process.stdin });
input.on("line", (line) => {
  const [command, name, ...rest] = line.split(" ");
  run(command, name, rest.join(" "));
});
input.on("close", async () => {
  await Promise.all([...sessions.keys()].map((name) => run("close", name)));
  process.exit(0);
});
