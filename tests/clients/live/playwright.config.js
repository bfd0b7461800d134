// The live view of sessions, in a browser of the grid that they are on.
const { defineConfig } = require("@playwright/test");

module.exports = defineConfig({
  testDir: __dirname,
  outputDir: process.env.SUITE_OUTPUT,
  reporter: [["json"]],
  workers: 1,
  timeout: 120_000,
  expect: { timeout: 60_000 },
  use: { connectOptions: { wsEndpoint: process.env.GRID } },
});
