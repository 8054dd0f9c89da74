"""The licence of every installed package, and a refusal of those that would bind users.

``python -m tools.release.licences FILE.csv``; run it in the environment that is meant.
"""

from __future__ import annotations

import csv
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

STRONG: Final = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)(?!.*exception)", re.IGNORECASE)
"""Copyleft that reaches what is shipped together with it. The Lesser GPL and MPL do not."""

_LESSER = re.compile(r"LGPL|Lesser General Public", re.IGNORECASE)


def licence_of(package: Distribution) -> str:
    """Return what a package says of its licence: the expression, the classifiers, or the field."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = about.get_all("Classifier") or []
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    field = (about.get("License") or "").strip().splitlines()
    return "; ".join(named) or (field[0][:80] if field else "not stated")


def binds(licence: str) -> bool:
    """Return whether every licence that is offered would bind a user of the package.

    Examples
    --------
    >>> binds("GPL-3.0-only"), binds("MIT OR GPL-2.0-only"), binds("LGPL-3.0-only"), binds("MIT")
    (True, False, False, False)
    """
    offered = re.split(r"\bOR\b|;", licence)
    return all(STRONG.search(one) and not _LESSER.search(one) for one in offered)


def main() -> None:
    """Write the report; exit 1 with the names of packages whose licence binds."""
    rows = sorted(
        {(d.metadata["Name"], d.version, licence_of(d)) for d in distributions()},
        key=lambda row: row[0].lower(),
    )
    with Path(sys.argv[1]).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["package", "version", "licence"])
        writer.writerows(rows)
    bad = [f"{name} {version}: {licence}" for name, version, licence in rows if binds(licence)]
    unknown = sum(licence == "not stated" for _, _, licence in rows)
    print(f"{len(rows)} packages, {unknown} without a stated licence: {sys.argv[1]}")
    if bad:
        raise SystemExit("licences that bind:\n" + "\n".join(bad))


if __name__ == "__main__":
    main()
