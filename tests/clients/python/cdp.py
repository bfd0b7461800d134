"""A client of the DevTools protocol: connects to the address, and uses what such clients use."""

import json
import sys

from playwright.sync_api import sync_playwright

address, token = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
headers = {"Authorization": f"Bearer {token}"} if token else {}
with sync_playwright() as playwright:
    browser = playwright.chromium.connect_over_cdp(address, headers=headers)
    context = browser.contexts[0]
    page = context.new_page()
    page.route("**/*", lambda route: route.fulfill(
        content_type="text/html", body="<title>Playhouse</title><h1>It runs</h1>"))
    page.goto("http://nowhere.example/")
    picture = page.screenshot()
    pdf = page.pdf()
    second = context.new_page()
    second.goto("data:text/html,<title>Second</title>")
    large = page.evaluate("'x'.repeat(8 << 20)")
    back = page.evaluate("text => text.length", large)
    print(json.dumps({
        "titles": [page.title(), second.title()],
        "picture": len(picture) > 100,
        "pdf": pdf[:4].decode(),
        "back": back,
    }))
    browser.close()
