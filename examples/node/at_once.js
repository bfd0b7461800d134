// Holds several sessions on the grid at once: `node at_once.js 10` (3 when not told).
//
// Environment: GRID, the grid's address; PAGE, what to open.

const { setTimeout: sleep } = require("node:timers/promises");
const { chromium } = require("playwright-core");

const grid = process.env.GRID ?? "ws://localhost:8080";
const address = process.env.PAGE ?? "data:text/html,<title>Hello</title><h1>Hello, grid</h1>";

async function session(number) {
  console.log(`session ${number}: connecting`);
  const browser = await chromium.connect(grid);
  try {
    const page = await browser.newPage();
    await page.goto(address);
    console.log(`session ${number}: '${await page.title()}'`);
    await sleep(2000); // the work that this session is for
  } finally {
    await browser.close();
  }
  console.log(`session ${number}: done`);
}

async function main(sessions) {
  await Promise.all(Array.from({ length: sessions }, (_, n) => session(n + 1)));
}

main(Number(process.argv[2] ?? 3));
