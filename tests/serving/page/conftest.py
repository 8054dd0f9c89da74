"""Debian's chromium on a real server. Without a browser these skip, unless one is required."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serving.page.driving import ARGUMENTS, Tab

REQUIRED = "MRRAG_REQUIRE_BROWSER"


def find_chromium() -> str | None:
    """Return where the browser is, None where there is none."""
    names = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, names), None)


# Not of the session: playwright holds a running event loop in this thread until it is stopped.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = find_chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if found is None:
        reason = "no chromium, or no playwright to drive it: apt-get install chromium"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{reason} ({REQUIRED} is set)")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Open a tab on a server, in a context of its own unless one is given."""
    contexts: list[Any] = []
    tabs: list[Tab] = []

    def opened(address: str, context: Any = None, **options: Any) -> Tab:
        if context is None:
            context = browser.new_context(**options)
            contexts.append(context)
        tab = Tab(context.new_page(), address)
        tabs.append(tab)
        return tab

    yield opened
    for context in contexts:
        context.close()
    for tab in tabs:
        assert tab.complaints == []
        foreign = [url for url in tab.requests if not url.startswith((tab.address, "data:"))]
        assert foreign == []


@pytest.fixture
def tab(open_tab: Callable[..., Tab], server: str) -> Tab:
    return open_tab(server)


@pytest.fixture(autouse=True)
def _browser_first(browser: Any) -> None:
    """Skip before a server is started for nothing."""
