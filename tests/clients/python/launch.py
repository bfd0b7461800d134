"""Connects with launch options and says which language the browser speaks,
or the error.

usage: launch.py ADDRESS [JSON]: the options of the header, if there are any
"""

import json
import sys

from playwright.sync_api import Error, sync_playwright

address, *options = sys.argv[1:]
headers = {"x-playwright-launch-options": option for option in options}
with sync_playwright() as playwright:
    try:
        browser = playwright.chromium.connect(address, headers=headers)
        page = browser.new_page()
        said = {"language": page.evaluate("navigator.language")}
        browser.close()
    except Error as error:
        said = {"error": error.message}
print(json.dumps(said))
