"""Photograph the demo's page for the README: on a desk and on a phone.

In: nothing; it serves the demo of the bundled model on a free port of this machine and opens it in
chromium. Out: assets/images/demo.png and assets/images/demo-phone.png.

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

from playwright.sync_api import Browser, sync_playwright

PICTURES = Path(__file__).resolve().parents[1] / "images"
STARTS = 120  # seconds
SIZES = {"demo.png": (1280, 1340, 1), "demo-phone.png": (390, 1900, 2)}


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


def photograph(browser: Browser, url: str, path: Path, size: tuple[int, int, int]) -> None:
    """Take a picture of the top of the page, once the first example is answered.

    Args:
        browser: a running one.
        url: of the page.
        path: of the PNG file.
        size: width and height in CSS pixels, and how many pixels each of them has.
    """
    width, height, scale = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=scale
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#answers .card.pruned .answer")
    page.wait_for_selector("#kept input[type=range]")
    page.wait_for_timeout(1500)  # fonts and the pictures' own decoding
    page.screenshot(path=str(path))
    context.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    chromium = parser.parse_args().chromium
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, size in SIZES.items():
            photograph(browser, url, PICTURES / name, size)
        browser.close()


if __name__ == "__main__":
    main()
