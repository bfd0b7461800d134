// Opens a page on the grid and takes a picture of it.
//
//     npm install playwright-core@1.65      (no browser is downloaded: they are the grid's)
//     node first_page.js
//
// Environment: GRID, the grid's address; PAGE, what to open; PICTURE, where the picture goes.

const { chromium } = require("playwright-core");

const grid = process.env.GRID ?? "ws://localhost:8080";
const address = process.env.PAGE ?? "data:text/html,<title>Hello</title><h1>Hello, grid</h1>";
const picture = process.env.PICTURE ?? "first_page.png";

async function main() {
  const browser = await chromium.connect(grid);
  const page = await browser.newPage();
  await page.goto(address);
  await page.screenshot({ path: picture });
  console.log(`'${await page.title()}', see ${picture}`);
  await browser.close();
}

main();
