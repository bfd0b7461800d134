"""Opens a page on the grid and takes a picture of it.

    pip install playwright==1.65.1      (no `playwright install`: the browsers are the grid's)
    python first_page.py

Environment: GRID, the grid's address; PAGE, what to open; PICTURE, where the picture goes.
"""

import asyncio
import os

from playwright.async_api import async_playwright

GRID = os.environ.get("GRID", "ws://localhost:8080")
PAGE = os.environ.get("PAGE", "data:text/html,<title>Hello</title><h1>Hello, grid</h1>")
PICTURE = os.environ.get("PICTURE", "first_page.png")


async def main():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect(GRID)
        page = await browser.new_page()
        await page.goto(PAGE)
        await page.screenshot(path=PICTURE)
        print(f"{await page.title()!r}, see {PICTURE}")
        await browser.close()


asyncio.run(main())
