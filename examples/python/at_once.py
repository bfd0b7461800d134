"""Holds several sessions on the grid at once: `python at_once.py 10` (3 when not told).

Environment: GRID, the grid's address; PAGE, what to open.
"""

import asyncio
import os
import sys

from playwright.async_api import async_playwright

GRID = os.environ.get("GRID", "ws://localhost:8080")
PAGE = os.environ.get("PAGE", "data:text/html,<title>Hello</title><h1>Hello, grid</h1>")


async def session(playwright, number):
    print(f"session {number}: connecting")
    browser = await playwright.chromium.connect(GRID)
    try:
        page = await browser.new_page()
        await page.goto(PAGE)
        print(f"session {number}: {await page.title()!r}")
        await asyncio.sleep(2)  # the work that this session is for
    finally:
        await browser.close()
    print(f"session {number}: done")


async def main(sessions):
    async with async_playwright() as playwright:
        await asyncio.gather(*(session(playwright, n + 1) for n in range(sessions)))


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
