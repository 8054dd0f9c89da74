"""``mrrag``: the entry point, which needs the extra ``cli``."""

from __future__ import annotations

import sys

from mrrag_llamaindex.commands.boundary import boundary


def main() -> None:
    """Run the command line."""
    with boundary():
        try:
            from mrrag_llamaindex.commands.app import app
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in ("rich", "typer"):
                raise
            print(
                f'error: mrrag needs {missing}: pip install "mrrag-llamaindex[cli]"',
                file=sys.stderr,
            )
            raise SystemExit(2) from None
        app()


if __name__ == "__main__":
    main()
