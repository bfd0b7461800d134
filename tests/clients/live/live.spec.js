// The live view: an operator sees what the pages of one session show, as they change, and those of no other.
const { test, expect } = require("@playwright/test");
const fs = require("node:fs");
const path = require("node:path");

const { GRID, ADMIN, ADMIN_TOKEN, SUITE_OUTPUT } = process.env;
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const MAGENTA = "#ff00ff", GREEN = "#00ff00", BLUE = "#0000ff", YELLOW = "#ffff00";

// The dashboard, which fails for what it should not do, and remembers what its live view has shown.
async function opened(page) {
  const wrong = [];
  page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(ADMIN + "/")) wrong.push("asked for " + request.url());
    if (request.url().includes(ADMIN_TOKEN)) wrong.push("the token is in " + request.url());
  });
  await page.addInitScript(() => {
    globalThis.shown = [];
    const { drawImage } = CanvasRenderingContext2D.prototype;
    CanvasRenderingContext2D.prototype.drawImage = function (...from) {
      drawImage.apply(this, from);
      const [red, green, blue] = this.getImageData(this.canvas.width / 2, this.canvas.height / 2, 1, 1).data;
      // JPEG is near, not equal.
      const digits = [red, green, blue].map((it) => (it < 64 ? "00" : it > 191 ? "ff" : "80"));
      globalThis.shown.push("#" + digits.join(""));
    };
  });
  await page.goto(`${ADMIN}/#token=${ADMIN_TOKEN}`);
  await expect(page.locator("#state")).toHaveText("live");
  return wrong;
}

const looks = (page) => page.locator("#session-rows").getByRole("button", { name: /^Look at session/ });

// A session with one page of this colour, and the button that looks at it.
async function session(page, playwright, colour) {
  const labels = () => looks(page).evaluateAll((all) => all.map((it) => it.getAttribute("aria-label")));
  await expect(looks(page)).not.toHaveCount(0);
  const before = await labels();
  const browser = await playwright.chromium.connect(GRID);
  const painted = await (await browser.newContext()).newPage();
  await paint(painted, colour);
  // Sessions of before may leave the list meanwhile.
  const added = async () => (await labels()).filter((it) => !before.includes(it));
  await expect.poll(async () => (await added()).length).toBe(1);
  const [label] = await added();
  return { browser, page: painted, id: label.split(" ").pop(), button: page.getByRole("button", { name: label }) };
}

const paint = (page, colour) => page.setContent(`<body style="background:${colour}"><h1>${colour}</h1></body>`);
const last = (page) => page.evaluate(() => globalThis.shown.at(-1));

async function obstacles(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map((it) => `${it.impact} ${it.id}: ${it.nodes.map((node) => node.target).join(", ")}`);
}

test("an operator sees one session, by keyboard, to its end", async ({ page, playwright }) => {
  const wrong = await opened(page);
  const other = await session(page, playwright, GREEN);
  const one = await session(page, playwright, MAGENTA);
  await one.button.focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog", { name: `Session ${one.id}` });
  await expect(dialog).toBeVisible();
  await expect(page.locator("#live-state")).toHaveText("live");
  await expect.poll(() => last(page)).toBe(MAGENTA);
  expect(await obstacles(page)).toEqual([]);
  await page.screenshot({ path: path.join(SUITE_OUTPUT, "..", "live.png") });

  await paint(one.page, BLUE);
  await expect.poll(() => last(page)).toBe(BLUE);
  // The newest page is shown, and when it is closed the one before.
  const newest = await one.page.context().newPage();
  await paint(newest, YELLOW);
  await expect.poll(() => last(page)).toBe(YELLOW);
  await paint(other.page, GREEN);
  await newest.close();
  await expect.poll(() => last(page)).toBe(BLUE);
  // Nothing of what a client does with its browser is touched.
  expect(await one.page.evaluate(() => 6 * 7)).toBe(42);
  const answered = new Promise((resolve) => one.page.once("dialog", (it) => it.accept().then(() => resolve(it.message()))));
  expect(await one.page.evaluate(() => confirm("really?"))).toBe(true);
  expect(await answered).toBe("really?");

  await one.browser.close();
  await expect(page.locator("#live-state")).toHaveText("The look is over: the session has ended.");
  const seen = await page.evaluate(() => [...new Set(globalThis.shown)]);
  expect(seen.filter((colour) => ![MAGENTA, BLUE, YELLOW, "#ffffff"].includes(colour))).toEqual([]);
  await page.keyboard.press("Escape");
  await expect(dialog).toBeHidden();

  await other.button.click();
  await expect.poll(() => last(page)).toBe(GREEN);
  await page.getByRole("button", { name: "Close" }).click();
  await other.browser.close();
  expect(wrong).toEqual([]);
});

test("a session that has bound its browser keeps that, and can be bound after a look", async ({ page, playwright }) => {
  const wrong = await opened(page);
  const bound = await session(page, playwright, MAGENTA);
  await bound.browser.bind("mine");
  await bound.button.click();
  await expect.poll(() => last(page)).toBe(MAGENTA);
  await page.keyboard.press("Escape");
  await bound.browser.unbind();
  await bound.browser.bind("mine once more");
  await bound.browser.unbind();

  // Two who look see the same, and the second stays when the first leaves. The look of before may be about to
  // end, and whoever joins it with it.
  await paint(bound.page, BLUE);
  await expect(async () => {
    await page.keyboard.press("Escape");
    await bound.button.click();
    await expect.poll(() => last(page), { timeout: 15_000 }).toBe(BLUE);
  }).toPass();
  const second = await page.context().newPage();
  const wrongThere = await opened(second);
  await second.getByRole("button", { name: `Look at session ${bound.id}` }).click();
  await expect.poll(() => last(second)).toBe(BLUE);
  await page.keyboard.press("Escape");
  await paint(bound.page, YELLOW);
  await expect.poll(() => last(second)).toBe(YELLOW);
  await second.close();
  // The last look is over some moment after its end was asked for.
  await expect.poll(async () => bound.browser.bind("after it").then(() => "bound", String)).toBe("bound");
  await bound.browser.close();
  expect([...wrong, ...wrongThere]).toEqual([]);
});
