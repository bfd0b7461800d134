// A grid with three workers and two tenants, full and with a queue, for people to look at.
const { test, expect } = require("@playwright/test");
const fs = require("node:fs");
const path = require("node:path");

const { GRID, ADMIN, ADMIN_TOKEN, SUITE_OUTPUT } = process.env;
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const VIEWS = {
  busy: { viewport: { width: 1280, height: 900 }, colorScheme: "light" },
  "busy-dark": { viewport: { width: 1280, height: 900 }, colorScheme: "dark" },
  "busy-phone": { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true },
};

test("a busy grid of two tenants", async ({ browser, playwright }) => {
  const connect = (tenant) => playwright.chromium.connect(`${GRID}?token=${tenant}`);
  for (let n = 0; n < 20; n++) {
    const one = await connect(n % 3 ? "alpha" : "beta");
    await (await one.newPage()).setContent("<h1>short</h1>");
    await one.close();
  }
  const seats = 3 * 3;
  const held = [];
  while (held.length < seats - 1) {
    const one = await connect(held.length % 4 ? "alpha" : "beta");
    await (await one.newPage()).setContent(`<h1>${held.length}</h1>`);
    held.push(one);
  }
  const waiting = ["alpha", "alpha", "alpha", "alpha", "beta", "beta"].map(connect);
  for (const [name, options] of Object.entries(VIEWS)) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    await page.goto(`${ADMIN}/#token=${ADMIN_TOKEN}`);
    await expect(page.locator("#queued")).toHaveText("6");
    await expect(page.locator("#tenant-rows tr")).toHaveCount(2);
    await expect(page.locator("#stairs rect")).toHaveCount(3);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    expect(violations.map((it) => `${it.impact} ${it.id}`)).toEqual([]);
    await page.screenshot({ path: path.join(SUITE_OUTPUT, "..", `${name}.png`), fullPage: true });
    await context.close();
  }
  for (const one of held) await one.close();
  for (const one of waiting) await (await one).close();
});
