"""What `mkdocs.yml` hooks into the build: pages from outside, generated parts, links that hold.

A page may hold ``<!-- generate: NAME -->``; `GENERATED` has what takes its place. Documents at the
top of the repository are pages too, and links between them and ``docs/`` hold on both sides. A link
to a file that is no page becomes plain text, as the site holds no source files.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `mkdocs` as a command does not look into the folder it runs in

from tools.site import reference, tables  # noqa: E402

FROM_OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
GENERATED = {**tables.TABLES, "reference": reference.directives}

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_MARK = re.compile(r"<!-- generate: ([\w-]+) -->")
_FENCE = re.compile(r"(^```.*?^```\n?)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the documents from the top of the repository."""
    for name in FROM_OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is generated, and turn links to where the site has their targets."""
    source = page.file.src_uri
    outside = source in FROM_OUTSIDE
    here = "" if outside else posixpath.dirname(f"docs/{source}")
    pages = {file.src_uri for file in files}

    def link(match: re.Match[str]) -> str:
        target = _target(match[2], here, pages, posixpath.dirname(source))
        return match[1] if target is None else f"[{match[1]}]({target})"

    def prose(text: str) -> str:
        return _MARK.sub(generate, _LINK.sub(link, text))

    def generate(match: re.Match[str]) -> str:
        if match[1] not in GENERATED:
            raise PluginError(f"{source}: nothing generates {match[1]!r}; see tools/site/hooks.py")
        return GENERATED[match[1]]()

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else prose(part) for part in parts)


def _target(link: str, here: str, pages: set[str], folder: str) -> str | None:
    """Where a link leads on the site; None if the site does not have it."""
    name, _, anchor = link.partition("#")
    if not name or re.match(r"\w+:", name):
        return link
    path = posixpath.normpath(posixpath.join(here, name))
    page = path if path in FROM_OUTSIDE else path.removeprefix("docs/")
    if path == "README.md":
        page = "index.md"
    if page in pages and (path.startswith("docs/") or path in (*FROM_OUTSIDE, "README.md")):
        relative = posixpath.relpath(page, folder or ".")
        return f"{relative}#{anchor}" if anchor else relative
    if not (ROOT / path).exists():
        return link  # a broken link: mkdocs names it and ends the build
    return None
