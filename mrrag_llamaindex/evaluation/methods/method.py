"""The rows of the table: what retrieves, what steers, what decodes.

| method | documents | attention | source |
|---|---|---|---|
| no-retrieval | none | as it is | |
| naive-rag | image-to-text, K | as it is | |
| rule-k | image-to-text, calibrated K | as it is | RULE, Xia et al., EMNLP 2024 |
| mmed-rag, mmed-rag-code | image-to-text, adaptive | as it is | MMed-RAG, Xia et al., ICLR 2025 |
| factmm-rag | factual agreement, 1 | as it is | FactMM-RAG, Sun et al., 2024 |
| opera | none | as it is; OPERA decoding | Huang et al., CVPR 2024 |
| pai | none | image tokens raised | Liu et al., ECCV 2024 |
| pasta | fused, K | all but the relevant documents lowered | Zhang et al., ICLR 2024 |
| hard-mask | fused, K | irrelevant documents hidden | MR-RAG's own comparison |
| mcr | fused, K | as it is | MR-RAG, Li et al., CVPR 2026 |
| mcr+ifa | fused, K | IFA | MR-RAG |

OPERA and PAI were published for models that read no documents, and run so. PASTA and the hard mask
decide by relevance, so they read MCR's documents: they differ from mcr+ifa in the formula alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.methods.adaptive_context import GapCut, RatioToFirst
from mrrag_llamaindex.evaluation.methods.ranking import Fused, ImageToText, Ranking
from mrrag_llamaindex.mcr.score import FusionWeights
from mrrag_llamaindex.steering.ifa import IFA

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.factual_agreement import FactualAgreement
    from mrrag_llamaindex.generation.prompt.request import PromptDocument
    from mrrag_llamaindex.mcr.weights_file import AnyWeights

METHODS = (
    "no-retrieval",
    "naive-rag",
    "rule-k",
    "mmed-rag",
    "mmed-rag-code",
    "factmm-rag",
    "opera",
    "pai",
    "pasta",
    "hard-mask",
    "mcr",
    "mcr+ifa",
)
"""All methods, in the order of the table."""


@dataclass(frozen=True)
class Method:
    """One row: each part is a frozen dataclass of its own, or None for nothing of the kind.

    Attributes
    ----------
    name : str
    ranking : Ranking or None
        Which documents are read; None: none.
    policy : steering policy or None
        `IFA`, `PAI` or one of `mrrag_llamaindex.steering.policies.uniform`; None: plain attention.
    decoding : OPERA or None
        None: greedy.
    """

    name: str
    ranking: Ranking | None = None
    policy: Any = None
    decoding: Any = None

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the documents of question ``row``, best first."""
        return self.ranking.documents(data, row) if self.ranking else []

    def settings(self) -> dict[str, str]:
        """Return everything that decides an answer, as text: what a resumed run must have too."""
        parts = {"ranking": self.ranking, "policy": self.policy, "decoding": self.decoding}
        return {name: repr(part) for name, part in parts.items() if part is not None}

    def describe(self) -> str:
        """Return the settings in one line."""
        return ", ".join(self.settings().values()) or "the model alone"


def build_method(
    name: str,
    *,
    documents: int = defaults.MAX_DOCUMENTS,
    weights: AnyWeights | None = None,
    agreement: FactualAgreement | None = None,
) -> Method:
    """Return a method with its published settings, or ours where none were published.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    documents : int
        K: documents of a method that reads a fixed number, and the most of the others.
    weights : FusionWeights or QueryGatedWeights, optional
        Of the fused score; equal weights if none were learned.
    agreement : FactualAgreement, optional
        factmm-rag needs it.

    Raises
    ------
    InputError
        If there is no such method, or factmm-rag has nothing to rank by.
    """
    plain = ImageToText(documents)
    fused = Fused(weights if weights is not None else FusionWeights(), documents)
    if name in ("naive-rag", "rule-k"):
        return Method(name, plain)
    if name == "no-retrieval":
        return Method(name)
    if name == "mmed-rag":
        return Method(name, GapCut(most=documents))
    if name == "mmed-rag-code":
        return Method(name, RatioToFirst(most=documents))
    if name == "factmm-rag":
        if agreement is None:
            raise InputError("factmm-rag needs a map learned from finding labels")
        return Method(name, agreement)
    if name == "mcr":
        return Method(name, fused)
    if name == "mcr+ifa":
        return Method(name, fused, IFA())
    if name == "opera":
        from mrrag_llamaindex.generation.decoding.opera import OPERA

        return Method(name, decoding=OPERA())
    if name in ("pai", "pasta", "hard-mask"):
        from mrrag_llamaindex.steering.policies.hard_mask import HardMask
        from mrrag_llamaindex.steering.policies.pai import PAI
        from mrrag_llamaindex.steering.policies.pasta import PASTA

        if name == "pai":
            return Method(name, policy=PAI())
        return Method(name, fused, PASTA() if name == "pasta" else HardMask())
    raise InputError(f"method {name!r} is not known; there are: {', '.join(METHODS)}")


def chosen_methods(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """Read a list of methods, e.g. ``naive-rag,mcr+ifa``; all of them if none is named.

    Raises
    ------
    InputError
        If one is not known, or none is left.
    """
    if text is None:
        return METHODS
    names = text.split(",") if isinstance(text, str) else text
    wanted = [name.strip() for name in names if name.strip()]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown or not wanted:
        what = f"method {unknown[0]!r} is not known" if unknown else "no method is named"
        raise InputError(f"{what}; there are: {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in wanted)
