// The operator's page: what it shows while the grid is idle, full and recycling, what can be done
// with it, and that anybody can read it.
const { test, expect } = require("@playwright/test");
const fs = require("node:fs");
const path = require("node:path");

const { GRID, ADMIN, ADMIN_TOKEN, SUITE_OUTPUT } = process.env;
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

// Opens the page as the address in the log does, and fails for what it should not do.
async function opened(page, address = `${ADMIN}/#token=${ADMIN_TOKEN}`) {
  const wrong = [];
  page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(ADMIN + "/")) wrong.push("asked for " + request.url());
  });
  await page.goto(address);
  return wrong;
}

async function live(page) {
  const wrong = await opened(page);
  await expect(page.locator("#state")).toHaveText("live");
  return wrong;
}

const picture = (page, name) => page.screenshot({ path: path.join(SUITE_OUTPUT, "..", `${name}.png`), fullPage: true });

const sessions = (page) => page.locator("#session-rows").getByRole("button", { name: /^Kill session/ });

async function obstacles(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map((it) => `${it.impact} ${it.id}: ${it.nodes.map((node) => node.target).join(", ")}`);
}

for (const [name, options] of Object.entries({
  light: { colorScheme: "light" },
  dark: { colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
})) {
  test.describe(name, () => {
    test.use(options);
    test("everybody can read it", async ({ page }) => {
      const wrong = await live(page);
      await expect(page.locator("#used")).toHaveText("1");
      await expect(page.locator("#queued")).toHaveText("0");
      await expect(page.locator("#stairs rect")).toHaveCount(1);
      await expect(sessions(page)).toHaveCount(1);
      await expect(page.locator("#events li", { hasText: "joined" })).not.toHaveCount(0);
      expect(await obstacles(page)).toEqual([]);
      const beside = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(beside).toBeLessThanOrEqual(0);
      expect(wrong).toEqual([]);
      await picture(page, name);
    });
  });
}

test("the token is in no address, and is asked for", async ({ page }) => {
  await live(page);
  expect(page.url()).toBe(ADMIN + "/");
  await page.reload();
  await expect(page.locator("#state")).toHaveText("live");

  // The proxy remembers what was before the page was opened.
  const remembered = () =>
    page.locator("#history").evaluate((history) => {
      const ages = [...history.querySelectorAll("rect")].map((it) => ((590 - it.x.baseVal.value) / 560) * 600);
      return Math.max(...ages) > performance.now() / 1000;
    });
  await expect.poll(remembered).toBe(true);

  await page.evaluate(() => sessionStorage.clear());
  await page.goto(ADMIN + "/");
  const asked = page.getByLabel("This grid asks for its admin token");
  await expect(asked).toBeFocused();
  await expect(page.locator("#state")).toHaveText("locked");
  expect(await obstacles(page)).toEqual([]);
  await asked.fill("wrong");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("alert")).toHaveText("The token is wrong.");
  await asked.fill(ADMIN_TOKEN);
  await page.keyboard.press("Enter");
  await expect(page.locator("#state")).toHaveText("live");
  await expect(asked).toBeHidden();
});

test("a full grid, its queue, and a session that is ended by keyboard", async ({ page, playwright }) => {
  const wrong = await live(page);
  await expect(sessions(page)).toHaveCount(1);
  const own = await sessions(page).getAttribute("aria-label");
  const [second, waiting] = [await playwright.chromium.connect(GRID), playwright.chromium.connect(GRID)];
  const ended = new Promise((resolve) => second.on("disconnected", resolve));
  await expect(page.locator("#queued")).toHaveText("1");
  await expect(page.locator("#used")).toHaveText("2");
  await expect(page.locator("#free")).toHaveText("0");
  await expect(page.locator("#demand")).toHaveText("3");
  await expect(page.locator("#tenant-rows")).toHaveText("without a token1");
  await expect(page.locator("#history title")).toHaveText("2 seats taken, 0 free, 1 clients waiting");
  expect(await obstacles(page)).toEqual([]);
  await picture(page, "full");

  page.once("dialog", (dialog) => dialog.accept());
  const target = page.locator(`#session-rows button:not([aria-label="${own}"])`);
  await expect(target).toHaveCount(1);
  const label = await target.getAttribute("aria-label");
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  for (let steps = 0; (await focused()) !== label; steps++) {
    expect(steps).toBeLessThan(50);
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  await expect(page.getByRole("status")).toHaveText(/^Session .* was ended\.$/);
  await ended;
  const third = await waiting;
  await expect(page.locator("#queued")).toHaveText("0");
  await expect(page.locator("#queue")).toBeHidden();
  await third.close();
  await expect(page.locator("#used")).toHaveText("1");
  expect(wrong).toEqual([]);
});

test("a browser drains, its replacement is there, and nobody loses a session", async ({ page }) => {
  const wrong = await live(page);
  page.once("dialog", (dialog) => dialog.accept());
  await page.getByRole("button", { name: /^Drain / }).click();
  await expect(page.getByRole("status")).toHaveText(/ drains\.$/);
  await expect(page.locator("#worker-rows")).toContainText("draining");
  await expect(page.locator("#worker-rows tr")).toHaveCount(2);
  await expect(page.locator("#worker-rows")).toContainText("available");
  await expect(page.locator("#stairs .drains")).toHaveCount(1);
  await picture(page, "recycle");
  expect(wrong).toEqual([]);
});
