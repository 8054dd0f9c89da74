"""Run by `clinical_metrics` in a process, and perhaps an environment, of its own.

It needs nothing but RadEval: no import of this package. All that it prints is one line of JSON.
An error while a metric scores is told by its kind alone, since its text may quote a report; one
while it loads, before it has seen any, in its own words.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from types import ModuleType
from typing import Any

INSTALL = "pip install 'mrrag-llamaindex[radiology-metrics]', or name another Python with it"


def main() -> None:
    """Read one metric and two lists of reports from stdin, and print the values of each report."""
    answers = os.dup(1)
    os.dup2(2, 1)  # libraries print what they do, at their end, too
    answer = _answer(json.load(sys.stdin))
    with os.fdopen(answers, "w") as out:
        out.write(json.dumps(answer) + "\n")


def _answer(task: dict[str, Any]) -> dict[str, object]:
    try:
        from radeval import RadEval

        if importlib.util.find_spec("RadEval") is None:
            sys.meta_path.insert(0, _OtherName())  # or its parts would be found by their path
        evaluator = RadEval(metrics=[task["metric"]], per_sample=True)
    except ImportError as error:
        return {"error": f"no module {error.name or 'radeval'}: {INSTALL}"}
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        return {"error": f"it cannot be loaded: {type(error).__name__}: {words}"}
    try:
        found = evaluator(refs=task["refs"], hyps=task["hyps"])
        return {
            "values": {name: list(map(float, item)) for name, item in found.items() if _lists(item)}
        }
    except Exception as error:  # whatever a model of theirs raises is named by its kind
        return {"error": f"it failed with {type(error).__name__}"}


def _lists(item: object) -> bool:
    return hasattr(item, "__len__") and not isinstance(item, (str, dict))


class _OtherName(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``RadEval``, by which RadGraph in radeval 2.2.1 imports its own parts, as ``radeval``.

    Each is the module that there is, not a second one: some register their classes by name.
    """

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for that name, and what stands below it."""
        if fullname.partition(".")[0] != "RadEval":
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module itself."""
        module = importlib.import_module("radeval" + spec.name[len("RadEval") :])
        spec.loader_state = module.__spec__  # what follows puts another there
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: it has run."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


if __name__ == "__main__":
    main()
