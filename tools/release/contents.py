"""Check what a release holds: ``python -m tools.release.contents dist``.

A wheel that lacks the shipped weights installs without a word, and fails at a user's first line.
"""

from __future__ import annotations

import email
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

PACKAGE: Final = "mrrag_llamaindex"
MOST_BYTES: Final = 12_000_000
"""Of the wheel: what a registry, a mirror and a container's layer are glad about."""

NEEDED: Final = (
    "py.typed",
    "phantom/weights/fusion_weights.json",
    *(f"phantom/weights/{part}/model.safetensors" for part in ("llava", "describing", "towers")),
    *(f"phantom/weights/{part}/tokenizer.json" for part in ("llava", "describing", "towers")),
    "phantom/weights/towers/tower.json",
    "phantom/weights/llava/mrrag_profile.json",
    "evaluation/votes/cases/vectors.safetensors",
    "evaluation/votes/cases/ATTRIBUTION.md",
    "serving/page/static/htmx.min.js",
    "serving/page/static/htmx.LICENSE",
    "serving/page/templates/page.html",
)
"""Below the package: what is no Python, and without which something fails."""

SOURCES: Final = (
    "tests/",
    "docs/",
    "tools/",
    "noxfile.py",
    "hatch_build.py",
    "constraints.txt",
    "CHANGELOG.md",
)
"""What the sdist has beside the package."""

_FOREIGN = re.compile(r"(^|/)(__pycache__|\.mypy_cache|tests|\.nox)(/|$)|\.pyc$")


def wheel_problems(names: Collection[str], metadata: str, size: int, version: str) -> list[str]:
    """Return what is wrong with a wheel.

    Parameters
    ----------
    names : collection of str
        Of the files in it.
    metadata : str
        Its METADATA.
    size : int
        Bytes of the wheel.
    version : str
        As the package states it.
    """
    problems = [f"lacks {name}" for name in NEEDED if f"{PACKAGE}/{name}" not in names]
    if size > MOST_BYTES:
        problems.append(f"has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    problems += [f"holds {name}, which is not the package's" for name in names if _foreign(name)]
    folder = f"{PACKAGE}-{version}.dist-info"
    for name in ("licenses/LICENSE", "entry_points.txt", "METADATA"):
        if f"{folder}/{name}" not in names:
            problems.append(f"lacks {folder}/{name}")
    about = email.message_from_string(metadata)
    if about["Version"] != version:
        problems.append(f"says version {about['Version']}, the package {version}")
    repository = os.environ.get("MRRAG_REPOSITORY", "").strip().rstrip("/")
    if repository and f"Repository, {repository}" not in (about.get_all("Project-URL") or []):
        problems.append(f"does not name its repository, {repository}")
    if about["License-Expression"] != "Apache-2.0":
        problems.append(f"says licence {about['License-Expression']}")
    return problems


def _foreign(name: str) -> bool:
    outside = not name.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))
    return outside or _FOREIGN.search(name) is not None


def sdist_problems(names: Collection[str], version: str) -> list[str]:
    """Return what is wrong with an sdist."""
    root = f"{PACKAGE}-{version}/"
    inside = [name.removeprefix(root) for name in names]
    needed = (*SOURCES, "LICENSE", "README.md", "pyproject.toml", f"{PACKAGE}/py.typed")
    return [f"lacks {one}" for one in needed if not any(name.startswith(one) for name in inside)]


def stated_version(package: Path) -> str:
    """Return the version that the package's own file states."""
    text = (package / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"{package}/__init__.py states no version")
    return match[1]


def main() -> None:
    """Check the wheel and the sdist of a folder; exit 1 with what is wrong."""
    folder = Path(sys.argv[1])
    version = stated_version(Path(PACKAGE))
    (wheel,), (sdist,) = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(about).decode()
    problems = wheel_problems(names, metadata, wheel.stat().st_size, version)
    with tarfile.open(sdist) as source:
        problems += sdist_problems(source.getnames(), version)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {len(names)} files")
    print(f"{sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
