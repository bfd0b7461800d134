"""A client of the DevTools protocol: connects to the address, and uses what such clients use."""

import base64
import json
import sys

from playwright.sync_api import sync_playwright

PAGE = """<title>Playhouse</title><h1>It runs</h1>
    <a id="get" download="note.bin" href="data:application/octet-stream;base64,AAEC/w==">get it</a>"""


def download(context, page):
    """Downloads a file, which stays on the worker's machine."""
    with page.expect_download() as coming:
        page.click("#get")
    file = coming.value
    failure = file.failure()
    if failure:
        return failure
    return [file.suggested_filename, list(read(context, file))]


def read(context, file):
    """The bytes of a file, as a page of the same session reads them that is given the file."""
    page = context.new_page()
    page.set_content("<input type=file>")
    connection = context.new_cdp_session(page)
    field = connection.send("Runtime.evaluate", {"expression": "document.querySelector('input')"})
    connection.send("DOM.setFileInputFiles", {
        "objectId": field["result"]["objectId"],
        "files": [f"/proc/self/cwd/downloads/{file.path().name}"],
    })
    text = page.locator("input").evaluate(
        "async field => new Uint8Array(await field.files[0].arrayBuffer()).toBase64()")
    page.close()
    return base64.b64decode(text)


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
