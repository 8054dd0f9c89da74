"""What a run has found: printed as it comes, failures and gaps kept to the end."""

from __future__ import annotations

import time


class Report:
    """Lines on standard output, and what failed or was left out.

    Parameters
    ----------
    minutes : float
        After these, nothing new begins.
    """

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.failed: list[str] = []
        self.left_out: list[str] = []

    def say(self, line: str = "") -> None:
        """Print a line at once: a run that is cut off has said what it knew."""
        print(line, flush=True)

    def has_time(self, what: str) -> bool:
        """Return whether there is time for something, and note it where there is not."""
        if time.monotonic() < self.end:
            return True
        self.left_out.append(what)
        return False
