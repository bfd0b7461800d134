// A suite whose launch options come from the test: what its author would write into the configuration.
const { defineConfig } = require("@playwright/test");

module.exports = defineConfig({
  testDir: __dirname,
  outputDir: process.env.SUITE_OUTPUT,
  reporter: [["json"]],
  workers: 1,
  use: {
    // Else the runner's contexts have a language of their own.
    locale: "",
    connectOptions: { wsEndpoint: process.env.GRID },
    launchOptions: JSON.parse(process.env.LAUNCH_OPTIONS),
  },
});
