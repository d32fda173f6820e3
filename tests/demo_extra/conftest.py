"""A served demo for these tests; without gradio they are skipped, and `make demo-test` fails.

They run in an environment of their own, because the demo's extra brings a web server.
"""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Iterator

import pytest
from demo_extra.shown import SLOW
from demo_extra.starting import Server, started


@pytest.fixture(scope="session")
def gradio_client():
    """The client's package, or a skip; with LVLM_PRUNE_DEMO set its absence is an error."""
    if importlib.util.find_spec("gradio") is None and not os.environ.get("LVLM_PRUNE_DEMO"):
        pytest.skip("gradio is not installed here; make demo-test runs these tests")
    return importlib.import_module("gradio_client")


@pytest.fixture(scope="session")
def server(gradio_client, tmp_path_factory) -> Iterator[Server]:
    """The demo of the bundled model, as a user starts it."""
    with started(tmp_path_factory.mktemp("demo")) as served:
        yield served


@pytest.fixture(scope="session")
def browser(server) -> Iterator:
    """Debian's chromium, or a skip; with LVLM_PRUNE_DEMO set its absence is an error."""
    wanted = os.environ.get("LVLM_PRUNE_DEMO")
    if importlib.util.find_spec("playwright") is None and not wanted:
        pytest.skip("playwright is not installed here; make demo-test runs these tests")
    program = shutil.which("chromium")
    if program is None and not wanted:
        pytest.skip("there is no chromium; install it with apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, server) -> Iterator:
    """Open the page; at the end nothing was asked elsewhere and the browser has no complaint."""
    contexts, wrong = [], []

    def visit(width: int = 1280, height: int = 900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda asked: wrong.append(asked.url) if foreign(asked.url) else None)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.goto(server.url, wait_until="domcontentloaded")
        page.locator("#answers .verdict").wait_for(timeout=SLOW)
        # gradio draws its parts one after the other, in no fixed order.
        for part in ("#ask", "#question textarea", "#method input", "#keep input[type=range]"):
            page.locator(part).wait_for(timeout=SLOW)
        for part in ("#more button", "#kept input[type=range]", "#words-part button"):
            page.locator(part).first.wait_for(timeout=SLOW)
        return page

    def foreign(address: str) -> bool:
        return not address.startswith((server.url, "data:", "blob:"))

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []
