"""Make the pictures of the page that README and docs show.

``python -m tests.serving.page.screenshots`` serves the demo's synthetic studies, asks the first
example in a real browser, and writes ``docs/page.png``, ``docs/page-dark.png`` and
``docs/page-without.png``.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from mrrag_llamaindex.serving.service import demo_service
from mrrag_llamaindex.serving.settings import Settings
from tests.serving.conftest import running
from tests.serving.page.conftest import find_chromium
from tests.serving.page.driving import ARGUMENTS, Tab

DOCS = Path(__file__).parents[3] / "docs"
SIZE = {"width": 1440, "height": 1000}
MOST_BYTES = 200_000


def save(tab: Tab, path: Path) -> None:
    """Write what is on the screen, in few colours where it would be large."""
    tab.page.mouse.move(0, 0)
    shot = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
    for colours in (256, 128, 64):
        file = io.BytesIO()
        shot.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    path.write_bytes(file.getvalue())
    print(f"{path.name}: {file.tell():,} bytes")


def asked(browser: Any, address: str, **options: Any) -> Tab:
    """Open the page and ask the first example."""
    tab = Tab(browser.new_context(viewport=SIZE, **options).new_page(), address)
    tab.page.locator(".examples button").first.click()
    tab.page.wait_for_selector("[data-film][data-ready]")
    tab.page.press("#question", "Enter")
    tab.answered()
    complete = "all => all.every(image => image.complete || image.loading === 'lazy')"
    tab.until(lambda: tab.page.eval_on_selector_all("img", complete), True)
    tab.page.wait_for_timeout(300)
    return tab


def main(out: Path) -> None:
    """Write the three pictures into ``out``."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        service = demo_service(Path(folder), max_new_tokens=4)
        with running(service, Settings()) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
            tab = asked(browser, address)
            save(tab, out / "page.png")
            tab.case(0).get_by_role("button", name="Without this document").click()
            tab.page.wait_for_selector("[data-side=without]")
            save(tab, out / "page-without.png")
            save(asked(browser, address, color_scheme="dark"), out / "page-dark.png")
            browser.close()
        service.index.store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS)
    main(parser.parse_args().out)
