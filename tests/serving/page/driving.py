"""A tab of a real browser on the page: what a person does there, and what they then see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Of chromium: it asks nobody but the server."""

EXPECTED = ("Failed to load resource", "Response Status Error Code", "willReadFrequently")
"""On the console: refusals, which the page tells as well, and the tests' own reading of pixels."""

WAIT = 60_000
"""Milliseconds: models on a loaded machine are slow."""


class Tab:
    """One tab; at its end it must have asked nobody but its server, and have had no error.

    Parameters
    ----------
    page : playwright.sync_api.Page
    address : str
    """

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{address}/")

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(
            words in message.text for words in EXPECTED
        ):
            self.complaints.append(message.text)

    @property
    def session(self) -> str:
        return str(self.page.get_attribute("body", "data-session"))

    def film(self, *path: Path, name: str = "film.png", content: bytes = b"") -> None:
        """Choose a film, and wait until it is drawn."""
        file: Any = str(path[0]) if path else {"name": name, "mimeType": "", "buffer": content}
        self.page.evaluate("document.querySelector('#viewer').replaceChildren()")
        self.page.set_input_files("#file", file)
        self.page.wait_for_selector("[data-film][data-ready]")
        self.drawn()

    def ask(self, question: str, *, wait: bool = True) -> None:
        self.page.fill("#question", question)
        self.page.evaluate("document.querySelector('#answer').replaceChildren()")
        self.page.press("#question", "Enter")
        if wait:
            self.answered()

    def answered(self) -> None:
        self.page.wait_for_selector("[data-why]")
        self.page.wait_for_selector("#answer:not([aria-busy])")

    def cases(self) -> list[str]:
        """Pair ids of the cards, from the top."""
        found = self.page.eval_on_selector_all("[data-case]", "all => all.map(x => x.dataset.case)")
        return [str(name) for name in found]

    def case(self, number: int) -> Any:
        return self.page.locator("[data-case]").nth(number)

    def side(self, name: str) -> tuple[str, float, float]:
        """Answer, p(yes) and p(no) of one side, as they stand there."""
        place = self.page.locator(f"[data-side={name}]")
        yes, no = place.locator(".p .number").all_inner_texts()
        return place.locator(".text").inner_text(), float(yes), float(no)

    def slide(self, term: str, value: float) -> None:
        slider = self.page.locator(f"#weight-{term}")
        slider.evaluate(
            "(x, v) => { x.value = v; x.dispatchEvent(new Event('input', {bubbles: true})) }", value
        )

    def until(self, seen: Callable[[], object], expected: object) -> None:
        """Wait until the person sees what is expected; it is an error if that never is."""
        for _ in range(WAIT // 50):
            if seen() == expected:
                return
            self.page.wait_for_timeout(50)
        assert seen() == expected

    def drawn(self) -> None:
        """Wait until the next frame has been drawn."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def levels(self) -> list[int]:
        """Grey levels along the middle row of the viewer's canvas."""
        found = self.page.evaluate(
            """() => {
              const canvas = document.querySelector('.viewer canvas');
              const row = canvas.getContext('2d').getImageData(
                0, Math.floor(canvas.height / 2), canvas.width, 1).data;
              return Array.from({length: canvas.width}, (_, x) => row[4 * x]);
            }"""
        )
        return [int(level) for level in found]

    def alert(self) -> str:
        place = self.page.locator("#alert p")
        place.wait_for()
        return str(place.inner_text())

    def fetch(self, path: str, session: str) -> dict[str, Any]:
        """Ask the server from within the page, in the name of a session."""
        found: dict[str, Any] = self.page.evaluate(
            """async ([path, session]) => {
              const answer = await fetch(path, {headers: {'X-MRRAG-Session': session}});
              return {status: answer.status, text: await answer.text()};
            }""",
            [path, session],
        )
        return found
