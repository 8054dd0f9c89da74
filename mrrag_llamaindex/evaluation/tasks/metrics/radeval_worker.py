"""Run by `clinical_metrics` in a process, and perhaps an environment, of its own.

It needs nothing but RadEval: no import of this package. What it prints last is one line of JSON;
an error is told by its kind alone, since its text may quote a report.
"""

from __future__ import annotations

import json
import sys

INSTALL = "pip install 'mrrag-llamaindex[radiology-metrics]', or name another Python with it"


def main() -> None:
    """Read one metric and two lists of reports from stdin, and print the values of each report."""
    task = json.load(sys.stdin)
    try:
        from radeval import RadEval

        evaluator = RadEval(metrics=[task["metric"]], per_sample=True)
        found = evaluator(refs=task["refs"], hyps=task["hyps"])
        lists = {name: list(map(float, item)) for name, item in found.items() if _is_list(item)}
        answer: dict[str, object] = {"values": lists}
    except ImportError as error:
        answer = {"error": f"no module {error.name or 'radeval'}: {INSTALL}"}
    except Exception as error:  # whatever a model of theirs raises is named by its kind
        answer = {"error": f"it failed with {type(error).__name__}"}
    print("\n" + json.dumps(answer), flush=True)


def _is_list(item: object) -> bool:
    return hasattr(item, "__len__") and not isinstance(item, (str, dict))


if __name__ == "__main__":
    main()
