// Another client of the DevTools protocol: Puppeteer, doing what its users do.
//
// usage: puppeteer.js browserURL|browserWSEndpoint ADDRESS [stay]: with "stay" it opens a page, says so,
// and does nothing until it is killed

const puppeteer = require("puppeteer-core").default;

const PAGE = `<title>Playhouse</title><h1>It runs</h1>
  <a id="get" download="note.txt" href="data:text/plain,from there">get it</a>`;

// Downloads a file into a folder below the browser's own, and has a page show it, and one read it.
async function download(browser, page) {
  const connection = await browser.target().createCDPSession();
  await connection.send("Browser.setDownloadBehavior", {
    behavior: "allowAndName",
    downloadPath: "downloads",
    eventsEnabled: true,
  });
  const ended = new Promise((resolve) => {
    connection.on("Browser.downloadProgress", (progress) => {
      if (progress.state !== "inProgress") resolve(progress);
    });
  });
  await page.click("#get");
  const { state, guid } = await ended;
  if (state !== "completed") return state;
  const reader = await browser.newPage();
  await reader.goto(`file:///proc/self/cwd/downloads/${guid}`);
  const shown = await reader.evaluate(() => document.body.innerText);
  await reader.setContent("<input type=file>");
  const field = await reader.$("input");
  await field.uploadFile(`/proc/self/cwd/downloads/${guid}`);
  const read = await field.evaluate((field) => field.files[0].text());
  return [shown, read];
}

async function main() {
  const [how, address, stay] = process.argv.slice(2);
  const browser = await puppeteer.connect({ [how]: address });
  const page = await browser.newPage();
  if (stay) {
    console.log("stays");
    return;
  }
  await page.setRequestInterception(true);
  page.on("request", (request) =>
    request.url() === "http://nowhere.example/"
      ? request.respond({ contentType: "text/html", body: PAGE })
      : request.continue(),
  );
  await page.goto("http://nowhere.example/");
  const picture = await page.screenshot();
  const pdf = await page.pdf();
  const second = await browser.newPage();
  await second.goto("data:text/html,<title>Second</title>");
  const downloaded = await download(browser, page);
  console.log(
    JSON.stringify({
      titles: [await page.title(), await second.title()],
      picture: picture.length > 100,
      pdf: Buffer.from(pdf.subarray(0, 4)).toString(),
      downloaded,
    }),
  );
  await browser.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
