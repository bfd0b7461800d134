// A suite as people write them on their first day, run against a grid: everything on.
const { defineConfig } = require("@playwright/test");

module.exports = defineConfig({
  testDir: __dirname,
  outputDir: process.env.SUITE_OUTPUT,
  reporter: [["json"]],
  workers: 2,
  fullyParallel: true,
  retries: 1,
  // However slow the machine is: one of them is to fail, and no other.
  timeout: 300_000,
  use: {
    connectOptions: { wsEndpoint: process.env.GRID },
    video: "on",
    trace: "on",
    screenshot: "on",
  },
});
