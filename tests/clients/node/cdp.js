// A client of the DevTools protocol: connects to the address, and uses what such clients use.
const path = require('node:path');
const { chromium } = require('playwright-core');

const PAGE = `<title>Playhouse</title><h1>It runs</h1>
  <a id="get" download="note.txt" href="data:text/plain,from there">get it</a>`;

// Downloads a file. It stays on the worker's machine, where a page of the same browser reads it.
async function download(context, page) {
  const [file] = await Promise.all([page.waitForEvent('download'), page.click('#get')]);
  const failure = await file.failure();
  if (failure) return failure;
  const name = path.basename(await file.path());
  const reader = await context.newPage();
  await reader.goto(`file:///proc/self/cwd/downloads/${name}`);
  return [file.suggestedFilename(), await reader.evaluate(() => document.body.innerText)];
}

(async () => {
  const [address, token] = process.argv.slice(2);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const browser = await chromium.connectOverCDP(address, { headers });
  const context = browser.contexts()[0];
  const page = await context.newPage();
  await page.route('**/*', route => route.fulfill({ contentType: 'text/html', body: PAGE }));
  await page.goto('http://nowhere.example/');
  const picture = await page.screenshot();
  const pdf = await page.pdf();
  const second = await context.newPage();
  await second.goto('data:text/html,<title>Second</title>');
  const large = await page.evaluate(() => 'x'.repeat(8 << 20));
  const back = await page.evaluate(text => text.length, large);
  console.log(JSON.stringify({
    titles: [await page.title(), await second.title()],
    picture: picture.length > 100,
    pdf: pdf.subarray(0, 4).toString(),
    back,
    downloaded: await download(context, page),
  }));
  await browser.close();
})().catch(error => {
  console.error(error);
  process.exit(1);
});
