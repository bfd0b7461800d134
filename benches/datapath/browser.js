// Real clients: how long a first page takes, and a round trip of evaluate, and how many sessions a
// second there are, through each of several doors in turns. Started by browser.rs; prints one JSON
// object a line. usage: browser.js REPEATS NAME=URL…

const { chromium } = require("playwright-core");

const FIRST_PAGES = 10;
const ROUND_TRIPS = 300;
const SESSIONS = 24;
const AT_ONCE = 3;
const PAGE = "data:text/html,<title>Playhouse</title><h1>It runs</h1>";

const [repeats, ...doors] = process.argv.slice(2);
const targets = doors.map((door) => {
  const at = door.indexOf("=");
  return { name: door.slice(0, at), url: door.slice(at + 1) };
});

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

// The same, beginning with another one each time: nobody is always first.
function turned(by) {
  return targets.map((_, at) => targets[(at + by) % targets.length]);
}

async function session(url) {
  const browser = await chromium.connect(url);
  const page = await browser.newPage();
  await page.goto(PAGE);
  return { browser, page };
}

async function firstPage(url) {
  const start = performance.now();
  const { browser } = await session(url);
  const took = performance.now() - start;
  await browser.close();
  return took;
}

async function evaluate(url) {
  const { browser, page } = await session(url);
  const times = [];
  for (let n = 0; n < ROUND_TRIPS; n++) {
    const start = performance.now();
    await page.evaluate("6 * 7");
    times.push(performance.now() - start);
  }
  await browser.close();
  return median(times);
}

async function sessionsPerSecond(url) {
  const start = performance.now();
  let left = SESSIONS;
  const lane = async () => {
    while (left-- > 0) await firstPage(url);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  return SESSIONS / ((performance.now() - start) / 1000);
}

(async () => {
  for (const { url } of targets) await sessionsPerSecond(url);
  for (let repeat = 0; repeat < Number(repeats); repeat++) {
    const pages = new Map(targets.map(({ name }) => [name, []]));
    for (let n = 0; n < FIRST_PAGES; n++) {
      for (const { name, url } of turned(repeat + n)) pages.get(name).push(await firstPage(url));
    }
    for (const { name, url } of turned(repeat)) {
      const values = {
        firstPage: median(pages.get(name)),
        evaluate: await evaluate(url),
        sessionsPerSecond: await sessionsPerSecond(url),
      };
      console.log(JSON.stringify({ repeat, name, ...values }));
    }
  }
})();
