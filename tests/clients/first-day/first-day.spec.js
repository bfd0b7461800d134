const { test, expect } = require("@playwright/test");
const fs = require("node:fs");

test("a page is tried, and fails the first time", async ({ page }, { retry }) => {
  await page.setContent("<button onclick='this.textContent = \"done\"'>do it</button>");
  await page.getByRole("button", { name: "do it" }).click();
  const [text, timeout] = retry ? ["done", 60_000] : ["never", 100];
  await expect(page.getByRole("button")).toHaveText(text, { timeout });
});

test("a file goes up", async ({ page }, testInfo) => {
  const file = testInfo.outputPath("note.txt");
  fs.writeFileSync(file, "from here");
  await page.setContent("<input type=file>");
  await page.locator("input").setInputFiles(file);
  const text = await page.locator("input").evaluate((input) => input.files[0].text());
  expect(text).toBe("from here");
});

test("a file comes down", async ({ page }, testInfo) => {
  await page.setContent("<a download='note.txt' href='data:text/plain,from there'>get it</a>");
  const coming = page.waitForEvent("download");
  await page.getByText("get it").click();
  const download = await coming;
  expect(download.suggestedFilename()).toBe("note.txt");
  const file = testInfo.outputPath("note.txt");
  await download.saveAs(file);
  expect(fs.readFileSync(file, "utf8")).toBe("from there");
});

// A font that lacks a character shows the same box for every one that it lacks.
for (const [script, one, other] of [
  ["Latin", "A", "B"],
  ["Chinese", "\u6f22", "\u5b57"],
  ["Japanese", "\u3042", "\u30ab"],
  ["Korean", "\ud55c", "\uae00"],
  ["emoji", "\u{1f600}", "\u{1f680}"],
]) {
  test(`there is a font for ${script}`, async ({ page }) => {
    const picture = async (text) => {
      await page.setContent(`<p style="font: 40px sans-serif">${text}</p>`);
      return page.locator("p").screenshot();
    };
    expect(await picture(one)).not.toEqual(await picture(other));
  });
}
