"""What Playwright's `connect_over_cdp` does in Python's other, asynchronous form: the same browser by each of its
addresses, two browsers at once, headers, and what its user reads when a session is ended or refused.

usage: over_cdp.py http://HOST:PORT TOKEN
"""

import asyncio
import json
import sys
import urllib.request

from playwright.async_api import Error, async_playwright

ADDRESS, TOKEN = sys.argv[1:]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def discovered():
    request = urllib.request.Request(f"{ADDRESS}/json/version/", headers=HEADERS)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["webSocketDebuggerUrl"]


async def failure(coming):
    try:
        await coming
    except Error as error:
        return error.message.split("Call log")[0].strip()
    return "it went well"


async def main():
    async with async_playwright() as playwright:
        connect = playwright.chromium.connect_over_cdp
        seen = {"contexts": []}
        ticketed = discovered()
        with_token = f"{ADDRESS.replace('http', 'ws')}/cdp?token={TOKEN}"
        for address, headers in [(ADDRESS, HEADERS), (f"{ADDRESS}/?token={TOKEN}", None),
                                 (ticketed, None), (with_token, None)]:
            browser = await connect(address, headers=headers)
            seen["contexts"].append(len(browser.contexts))
            await browser.close()
        seen["again"] = await failure(connect(ticketed))
        seen["stranger"] = await failure(connect(ADDRESS))
        seen["stranger_by_ws"] = await failure(connect(f"{ADDRESS.replace('http', 'ws')}/cdp"))
        seen["unknown"] = await failure(connect(ADDRESS, headers={"Authorization": "Bearer x"}))

        # At one address, a browser each.
        first, second = [await connect(ADDRESS, headers=HEADERS) for _ in range(2)]
        page = await first.contexts[0].new_page()
        await page.goto("data:text/html,<title>of the first</title>")
        pages = [page for context in second.contexts for page in context.pages]
        seen["of_the_second"] = [await page.title() for page in pages]
        await second.close()
        seen["first_goes_on"] = await page.title()

        # Until somebody ends it.
        waiting = asyncio.ensure_future(failure(page.evaluate("new Promise(() => {})")))
        print("waits", flush=True)
        seen["ended"] = await waiting
        seen["connected"] = first.is_connected()
        print(json.dumps(seen))


asyncio.run(main())
