"""A user of Playwright whose every move the tests decide.

usage: driver.py GRID [--browser chromium] [--header NAME=VALUE]...

Reads commands from standard input, one a line, and runs them side by side:

    open NAME PAGE      connects, opens the page, reads its title
    use NAME            evaluates something in the page
    miss NAME           looks for what is not there, and tells the text of the error
    fetch NAME BYTES    has the page send so much at once
    picture NAME FILE   takes a screenshot and lets the browser itself look at it
    close NAME          ends the session

and answers each with a line of JSON: {"did": "open", "name": "a", ...}, with "error" and the text
a user would see when it failed. Tells {"did": "disconnect", "name": "a"} when a session is lost.
Ends when standard input does.
"""

import argparse
import asyncio
import base64
import json
import sys
import time

from playwright.async_api import Error, async_playwright

# What the picture looks like to a browser: its size, its middle, and whether it is of one colour.
LOOK = """async (base64) => {
    const image = new Image();
    image.src = "data:image/png;base64," + base64;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    const pixel = (n) => data.slice(4 * n, 4 * n + 3).join(",");
    const colours = new Set();
    for (let n = 0; n < image.width * image.height; n++) colours.add(pixel(n));
    const middle = pixel((image.height >> 1) * image.width + (image.width >> 1));
    return { width: image.width, height: image.height, middle, colours: colours.size };
}"""

# Text that does not get smaller on the way.
NOISE = """(size) => {
    let text = "";
    const block = new Uint8Array(30000);
    while (text.length < size) {
        crypto.getRandomValues(block);
        text += btoa(String.fromCharCode(...block));
    }
    return text;
}"""


def tell(did, name, **more):
    print(json.dumps({"did": did, "name": name, **more}), flush=True)


def since(start):
    return round((time.monotonic() - start) * 1000, 1)


class Driver:
    def __init__(self, browser_type, grid, headers):
        self.browser_type = browser_type
        self.grid = grid
        self.headers = headers
        self.sessions = {}

    async def open(self, name, page_address):
        start = time.monotonic()
        browser = await self.browser_type.connect(self.grid, headers=self.headers)
        connected = since(start)
        browser.on("disconnected", lambda _: tell("disconnect", name))
        page = await browser.new_page()
        self.sessions[name] = (browser, page)
        await page.goto(page_address)
        title = await page.title()
        return {
            "title": title,
            "version": browser.version,
            "connectMs": connected,
            "pageMs": since(start),
        }

    async def use(self, name):
        _, page = self.sessions[name]
        return {"value": await page.evaluate("() => 6 * 7")}

    async def miss(self, name):
        _, page = self.sessions[name]
        try:
            await page.get_by_role("button", name="nowhere").click(timeout=1)
        except Error as error:
            return {"words": error.message}

    async def fetch(self, name, size):
        _, page = self.sessions[name]
        return {"length": len(await page.evaluate(NOISE, int(size)))}

    async def picture(self, name, file):
        _, page = self.sessions[name]
        picture = await page.screenshot(path=file)
        return await page.evaluate(LOOK, base64.b64encode(picture).decode())

    async def close(self, name):
        browser, _ = self.sessions.pop(name)
        await browser.close()
        return {}


async def run(driver, command, name, arguments):
    try:
        tell(command, name, **await getattr(driver, command)(name, *arguments))
    except Error as error:
        tell(command, name, error=error.message)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("grid")
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--header", action="append", default=[])
    options = parser.parse_args()
    headers = dict(header.split("=", 1) for header in options.header)
    async with async_playwright() as playwright:
        driver = Driver(getattr(playwright, options.browser), options.grid, headers)
        running = set()
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, name, *arguments = line.strip().split(" ", 2)
            task = asyncio.create_task(run(driver, command, name, arguments))
            running.add(task)
            task.add_done_callback(running.discard)
        for name in list(driver.sessions):
            await run(driver, "close", name, [])


asyncio.run(main())
