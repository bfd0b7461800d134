"""Opens and closes ten sessions as fast as the grid gives them. Its log tells who got which.

Environment: GRID, the grid's address; PAGE, what to open.
"""

import asyncio
import os

from playwright.async_api import async_playwright

GRID = os.environ.get("GRID", "ws://localhost:8080")
PAGE = os.environ.get("PAGE", "data:text/html,<title>Hello</title><h1>Hello, grid</h1>")


async def quick_session(playwright, number):
    browser = await playwright.chromium.connect(GRID)
    page = await browser.new_page()
    await page.goto(PAGE)
    await browser.close()
    print(f"session {number}: done")


async def main():
    async with async_playwright() as playwright:
        await asyncio.gather(*(quick_session(playwright, n + 1) for n in range(10)))


asyncio.run(main())
