"""Sections of a report: what stands under FINDINGS or IMPRESSION."""

from __future__ import annotations

import re

SECTIONS = ("report", "findings", "impression")
"""What can be asked for; ``report`` is the whole text."""

_HEADING = re.compile(
    r"(?:^|(?<=[\n.:]))[ \t]*(?P<name>findings|impression|conclusion|indication|history|technique|"
    r"comparison|examination|exam|recommendations?)[ \t]*:",
    re.IGNORECASE,
)
_SAME = {"conclusion": "impression"}


def section_of(report: str, name: str) -> str | None:
    """Return a section of a report, None if it has none of that name.

    A report without any heading is its findings: so the data sets for report writing hold it.

    Examples
    --------
    >>> text = "FINDINGS: Clear lungs. IMPRESSION: No acute disease."
    >>> section_of(text, "impression"), section_of(text, "findings")
    ('No acute disease.', 'Clear lungs.')
    >>> section_of("Clear lungs.", "findings"), section_of("Clear lungs.", "impression")
    ('Clear lungs.', None)
    """
    headings = list(_HEADING.finditer(report))
    if name == "report" or (not headings and name == "findings"):
        return report.strip()
    ends = [*(match.start() for match in headings[1:]), len(report)]
    for match, end in zip(headings, ends, strict=False):
        found = match["name"].casefold()
        if _SAME.get(found, found) == name:
            return report[match.end() : end].strip() or None
    return None
