// The same as launch.py, in Node.

const { chromium } = require("playwright-core");

const [address, options] = process.argv.slice(2);
const headers = options ? { "x-playwright-launch-options": options } : {};

async function main() {
  const browser = await chromium.connect(address, { headers });
  const page = await browser.newPage();
  const language = await page.evaluate(() => navigator.language);
  await browser.close();
  return { language };
}

main()
  .catch((error) => ({ error: error.message }))
  .then((said) => console.log(JSON.stringify(said)));
