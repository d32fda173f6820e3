"""Waiting for what the page says, as a person would."""

from typing import Any

SLOW = 60_000  # ms, on a busy machine


def shows(page: Any, place: str, text: str) -> None:
    """Wait until a part of the page holds a text."""
    from playwright.sync_api import expect

    expect(page.locator(place)).to_contain_text(text, timeout=SLOW)
