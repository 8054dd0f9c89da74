"""``mrrag``: the entry point, which needs the extra ``cli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from mrrag_llamaindex.commands.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        print(
            f'error: mrrag needs {error.name}: pip install "mrrag-llamaindex[cli]"', file=sys.stderr
        )
        raise SystemExit(2) from None
    app()


if __name__ == "__main__":
    main()
