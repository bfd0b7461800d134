const { test, expect } = require("@playwright/test");

test("the browser speaks the language that is expected", async ({ page }) => {
  const language = await page.evaluate(() => navigator.language);
  expect(language).toBe(process.env.LANGUAGE_EXPECTED);
});
