// Opens and closes ten sessions as fast as the grid gives them. Its log tells who got which.
//
// Environment: GRID, the grid's address; PAGE, what to open.

const { chromium } = require("playwright-core");

const grid = process.env.GRID ?? "ws://localhost:8080";
const address = process.env.PAGE ?? "data:text/html,<title>Hello</title><h1>Hello, grid</h1>";

async function quickSession(number) {
  const browser = await chromium.connect(grid);
  const page = await browser.newPage();
  await page.goto(address);
  await browser.close();
  console.log(`session ${number}: done`);
}

async function main() {
  await Promise.all(Array.from({ length: 10 }, (_, n) => quickSession(n + 1)));
}

main();
