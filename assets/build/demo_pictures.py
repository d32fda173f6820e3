"""Photograph the demo's page for the README: on a desk, on a phone, and a comparison.

In: nothing; it serves the demo of the bundled model on a free port of this machine and opens it in
chromium. Out: demo.png, demo-phone.png (from the answers on) and demo-compare.png in assets/images.

Usage: python assets/build/demo_pictures.py [--chromium /usr/bin/chromium]
It needs the `demo` extra and playwright.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

PICTURES = Path(__file__).resolve().parents[1] / "images"
STARTS = 120  # seconds
DESK = {"viewport": {"width": 1280, "height": 1330}, "device_scale_factor": 1.5}
PHONE = {"viewport": {"width": 390, "height": 1420}, "device_scale_factor": 2}


@contextmanager
def served() -> Iterator[str]:
    """The address of a running demo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "lvlm_prune.cli", "demo", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for(url, process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the page answers."""
    ends = time.monotonic() + STARTS
    while time.monotonic() < ends and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"the demo did not answer at {url}")


def opened(browser: Browser, url: str, look: dict[str, Any]) -> Page:
    """The page with its first example, asked once more: steady times stay, others are new."""
    page = browser.new_context(**look).new_page()
    page.goto(url)
    page.wait_for_selector("#kept input[type=range]")
    page.locator("#ask").click()
    page.locator("#message").get_by_text("Done.").wait_for()
    page.wait_for_timeout(1500)  # fonts and the pictures' own decoding
    return page


def photograph(browser: Browser, url: str) -> None:
    """Take all pictures.

    Args:
        browser: a running one.
        url: of the page.
    """
    desk = opened(browser, url, DESK)
    desk.evaluate("scrollTo(0, 0)")
    desk.screenshot(path=str(PICTURES / "demo.png"))
    desk.locator("#compare-methods").click()
    desk.locator("#progress").get_by_text("Done:").wait_for(timeout=120_000)
    desk.wait_for_timeout(500)
    desk.locator("#compare-part").screenshot(path=str(PICTURES / "demo-compare.png"))
    phone = opened(browser, url, PHONE)
    phone.evaluate("document.querySelector('#see-part').scrollIntoView()")
    phone.screenshot(path=str(PICTURES / "demo-phone.png"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    chromium = parser.parse_args().chromium
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        photograph(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
