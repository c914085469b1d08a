"""Takes the pictures of the search page that the documentation shows, in headless Chromium.

    make search                              # in another terminal
    python -m benchmarks.search_screenshot --url http://127.0.0.1:8000 --output docs/search.png
    python -m benchmarks.search_screenshot --url http://127.0.0.1:8000 --output docs/search_note.png --note

Needs Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import shutil
import urllib.parse

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

QUERY, WORD = "a red square above a blue circle", "square"
LOADED = "return [...document.images].slice(0, 12).every((image) => image.naturalWidth && image.complete)"
UNKNOWN = "a red square above a blue дирижабль"


def main() -> None:
    """Asks, opens the first result, points at a word, and saves what is seen; or asks with words that do not count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--output", default="docs/search.png")
    parser.add_argument("--note", action="store_true", help="of words that did not count, instead of an explanation")
    options = parser.parse_args()
    query = urllib.parse.urlencode({"q": UNKNOWN if options.note else QUERY, "rerank": 100})
    flags = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", f"--window-size=1200,{640 if options.note else 900}"):
        flags.add_argument(flag)
    browser = webdriver.Chrome(options=flags, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(f"{options.url}?{query}")
        wait = WebDriverWait(browser, 20)
        card = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#results .card"))[0]
        wait.until(lambda b: b.execute_script(LOADED))
        if not options.note:
            card.send_keys(Keys.ENTER)
            words = browser.find_elements(By.CSS_SELECTOR, "#words button")
            next(word for word in words if word.text.split()[0] == WORD).send_keys("")  # focuses it
            wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#boxes .on"))
        browser.save_screenshot(options.output)
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
