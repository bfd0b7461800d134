// A busy grid, to be looked at.
const { defineConfig } = require("@playwright/test");

module.exports = defineConfig({
  testDir: __dirname,
  outputDir: process.env.SUITE_OUTPUT,
  reporter: [["json"]],
  workers: 1,
  timeout: 600_000,
  expect: { timeout: 120_000 },
  use: { connectOptions: { wsEndpoint: process.env.GRID + "?token=alpha" } },
});
