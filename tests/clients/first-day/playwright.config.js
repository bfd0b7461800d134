// A suite as people write them on their first day, run against a grid: everything on.
const { defineConfig } = require("@playwright/test");

module.exports = defineConfig({
  testDir: __dirname,
  outputDir: process.env.SUITE_OUTPUT,
  reporter: [["json"]],
  workers: 2,
  fullyParallel: true,
  retries: 1,
  use: {
    connectOptions: { wsEndpoint: process.env.GRID },
    video: "on",
    trace: "on",
    screenshot: "on",
  },
});
