// Sessions that use what one browser has once: the clipboard, its tracing, its context to be used again. Two at
// the same time, and one that comes when they have gone. Prints what each of them gets.
//
// usage: apart.js ADDRESS

const { chromium } = require("playwright-core");

const [address] = process.argv.slice(2);
const HOME = "https://nowhere.example/";

// A page that may use the clipboard, which takes a secure origin.
async function homepage(context) {
  const page = await context.newPage();
  await page.route(HOME, (route) =>
    route.fulfill({ contentType: "text/html", body: "<title>Home</title>" }),
  );
  await page.goto(HOME);
  return page;
}

async function open() {
  const browser = await chromium.connect(address);
  const permissions = ["clipboard-read", "clipboard-write"];
  const page = await homepage(await browser.newContext({ permissions }));
  return { browser, page };
}

const copy = ({ page }, text) => page.evaluate((text) => navigator.clipboard.writeText(text), text);
const paste = ({ page }) => page.evaluate(() => navigator.clipboard.readText());

// What a context that is to be used again still knows of those before.
async function remembers({ browser }, name) {
  const page = await homepage(await browser._newContextForReuse());
  const before = await page.evaluate(() => localStorage.getItem("name"));
  await page.evaluate((name) => localStorage.setItem("name", name), name);
  return { page, before };
}

async function main() {
  const two = [await open(), await open()];
  for (const [n, one] of two.entries()) await copy(one, `of ${n}`);
  const clipboards = [];
  for (const one of two) clipboards.push(await paste(one));

  const reused = [await remembers(two[0], "first"), await remembers(two[1], "second")];
  const again = await remembers(two[0], "first again");
  const pages = [reused[1].page, again.page];
  const names = await Promise.all(
    pages.map((page) => page.evaluate(() => localStorage.getItem("name"))),
  );

  for (const { browser, page } of two) await browser.startTracing(page);
  const traces = [];
  for (const { browser } of two) traces.push((await browser.stopTracing()).length > 0);
  // One leaves in the middle of it.
  await two[0].browser.startTracing(two[0].page);
  for (const { browser } of two) await browser.close();

  const later = await open();
  clipboards.push(await paste(later));
  const { before } = await remembers(later, "third");
  await later.browser.startTracing(later.page);
  traces.push((await later.browser.stopTracing()).length > 0);
  await later.browser.close();
  console.log(
    JSON.stringify({
      clipboards,
      traces,
      names,
      remembered: [...reused.map((one) => one.before), before],
    }),
  );
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
