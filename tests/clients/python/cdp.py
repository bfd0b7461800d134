"""A client of the DevTools protocol: connects to the address, and uses what such clients use."""

import json
import sys

from playwright.sync_api import sync_playwright

PAGE = """<title>Playhouse</title><h1>It runs</h1>
    <a id="get" download="note.txt" href="data:text/plain,from there">get it</a>"""


def download(context, page):
    """Downloads a file. It stays on the worker's machine, where a page of the same browser reads it."""
    with page.expect_download() as coming:
        page.click("#get")
    file = coming.value
    failure = file.failure()
    if failure:
        return failure
    reader = context.new_page()
    reader.goto(f"file:///proc/self/cwd/downloads/{file.path().name}")
    return [file.suggested_filename, reader.evaluate("document.body.innerText")]


address, token = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
headers = {"Authorization": f"Bearer {token}"} if token else {}
with sync_playwright() as playwright:
    browser = playwright.chromium.connect_over_cdp(address, headers=headers)
    context = browser.contexts[0]
    page = context.new_page()
    page.route("**/*", lambda route: route.fulfill(content_type="text/html", body=PAGE))
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
        "downloaded": download(context, page),
    }))
    browser.close()
