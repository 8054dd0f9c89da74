"""The API reference: every public name, in groups, as directives of mkdocstrings."""

from __future__ import annotations

from types import ModuleType

import mrrag_llamaindex
import mrrag_llamaindex.evaluation.data.readers
import mrrag_llamaindex.langchain
import mrrag_llamaindex.mcr.score
import mrrag_llamaindex.plots

GROUPS = {
    "Asking": ("answer_trace", "ask", "ask_by_vote", "draw_answer", "query_image"),
    "LlamaIndex": (
        "MRRAGIndex",
        "MRRAGLLaVA",
        "MRRAGPostprocessor",
        "MRRAGRetriever",
        "MRRAGSynthesizer",
    ),
    "Score": ("Calibration", "FusionWeights", "QueryGatedWeights"),
    "Steering": ("IFA", "HardMask", "PAI", "PASTA", "Uniform"),
    "Pairs and towers": ("Pair", "PairStore", "Exclusion", "DualTower", "load_towers"),
    "Errors": ("MRRAGError", "BusyError", "NoRelevantCase"),
}
"""Of the package itself; what stands in no group comes last, so that nothing is left out."""

FURTHER = (
    ("LangChain", mrrag_llamaindex.langchain),
    ("The score as functions", mrrag_llamaindex.mcr.score),
    ("Pictures", mrrag_llamaindex.plots),
    ("Readers of data sets", mrrag_llamaindex.evaluation.data.readers),
)
"""Modules with an ``__all__`` of their own."""


def directives() -> str:
    """Return the page's Markdown: a heading for each group, a directive for each name."""
    grouped = {name for names in GROUPS.values() for name in names}
    rest = tuple(name for name in mrrag_llamaindex.__all__ if name not in grouped)
    lines: list[str] = []
    for title, names in {**GROUPS, **({"Others": rest} if rest else {})}.items():
        lines += [f"## {title}", ""]
        lines += [f"::: mrrag_llamaindex.{name}\n" for name in names]
    for title, module in FURTHER:
        lines += [f"## {title}", "", f"`{module.__name__}`", ""]
        lines += [f"::: {module.__name__}.{name}\n" for name in _own(module)]
    return "\n".join(lines)


def public_names() -> list[str]:
    """Return the full name of everything that some ``__all__`` calls public."""
    own = [f"{module.__name__}.{name}" for _, module in FURTHER for name in _own(module)]
    return [*(f"mrrag_llamaindex.{name}" for name in mrrag_llamaindex.__all__), *own]


def _own(module: ModuleType) -> list[str]:
    """Return what a module calls public and the package does not give as the same object."""
    package = {name: getattr(mrrag_llamaindex, name) for name in mrrag_llamaindex.__all__}
    return [name for name in module.__all__ if getattr(module, name) is not package.get(name)]
