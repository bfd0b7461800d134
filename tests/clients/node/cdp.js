// A client of the DevTools protocol: connects to the address, and uses what such clients use.
const path = require('node:path');
const { chromium } = require('playwright-core');

const PAGE = `<title>Playhouse</title><h1>It runs</h1>
  <a id="get" download="note.bin" href="data:application/octet-stream;base64,AAEC/w==">get it</a>`;

// The bytes of a file, as a page of the same session reads them that is given the file.
async function read(context, file) {
  const page = await context.newPage();
  await page.setContent('<input type=file>');
  const connection = await context.newCDPSession(page);
  const expression = "document.querySelector('input')";
  const { result } = await connection.send('Runtime.evaluate', { expression });
  const name = path.basename(await file.path());
  const files = [`/proc/self/cwd/downloads/${name}`];
  await connection.send('DOM.setFileInputFiles', { objectId: result.objectId, files });
  const text = await page.locator('input').evaluate(
    async field => new Uint8Array(await field.files[0].arrayBuffer()).toBase64());
  await page.close();
  return Buffer.from(text, 'base64');
}

// Downloads a file, which stays on the worker's machine.
async function download(context, page) {
  const [file] = await Promise.all([page.waitForEvent('download'), page.click('#get')]);
  const failure = await file.failure();
  if (failure) return failure;
  return [file.suggestedFilename(), [...await read(context, file)]];
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
