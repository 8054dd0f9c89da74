"""Check a built site: every public name is in the reference, and nothing is loaded from elsewhere.

Run as ``python -m tools.site.check build/site``, after ``python -m mkdocs build --strict``.
"""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from tools.site.reference import public_names

_LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"'](?:https?:)?//[^\"'>]+"
    r"|<link\b[^>]*\brel=[\"'](?:stylesheet|preload|preconnect|icon)[\"'][^>]*(?:https?:)?//[^>]+"
    r"|url\([\"']?(?:https?:)?//[^)]+"
)


def names_in(inventory: bytes) -> set[str]:
    """Return the names of an ``objects.inv``: four lines of plain text, then compressed lines."""
    compressed = inventory.split(b"\n", 4)[4]
    lines = zlib.decompress(compressed).decode("utf-8").splitlines()
    return {line.partition(" ")[0] for line in lines}


def loaded_from_elsewhere(site: Path) -> Iterator[str]:
    """Yield what pages and styles would fetch; links that a reader may follow are none."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for match in _LOADED.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: {match}"


def problems(site: Path) -> list[str]:
    """Return what is wrong with a site, one line each."""
    names = names_in((site / "objects.inv").read_bytes())
    missing = [f"not in the reference: {name}" for name in public_names() if name not in names]
    return [*missing, *loaded_from_elsewhere(site)]


def main() -> None:
    """Read the folder from the command line; end with 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", type=Path)
    found = problems(parser.parse_args().site)
    if found:
        raise SystemExit("\n".join(found))
    print(f"{len(public_names())} public names, and nothing from elsewhere")


if __name__ == "__main__":
    main()
