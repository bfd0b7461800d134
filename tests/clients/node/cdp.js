// A client of the DevTools protocol: connects to the address, and uses what such clients use.
const { chromium } = require('playwright-core');

(async () => {
  const [address, token] = process.argv.slice(2);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const browser = await chromium.connectOverCDP(address, { headers });
  const context = browser.contexts()[0];
  const page = await context.newPage();
  await page.route('**/*', route => route.fulfill({
    contentType: 'text/html',
    body: '<title>Playhouse</title><h1>It runs</h1>',
  }));
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
  }));
  await browser.close();
})().catch(error => {
  console.error(error);
  process.exit(1);
});
