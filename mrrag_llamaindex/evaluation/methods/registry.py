"""The methods of the table, one row each: a new baseline is one file and one row here.

Command line, documentation and tests take the names, their order and everything else about a
method from `ROWS`. What is heavy to import is named as ``module:name`` and loaded when a method is
built.

OPERA and PAI were published for models that read no documents, and run so. The other rivals of
IFA read MCR's documents: they differ from mcr+ifa in what they do with them alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.markdown import markdown_table
from mrrag_llamaindex.evaluation.methods import tuning
from mrrag_llamaindex.evaluation.methods.adaptive_context import GapCut, RatioToFirst
from mrrag_llamaindex.evaluation.methods.calibrated_count import controlled_count
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.ranking import ImageToText, Ranking
from mrrag_llamaindex.evaluation.methods.row import Ingredients, MethodRow, fused, voting
from mrrag_llamaindex.evaluation.methods.vote import grid as vote_grid
from mrrag_llamaindex.mcr.weights import FusionWeights

if TYPE_CHECKING:
    from mrrag_llamaindex.mcr.weights_file import AnyWeights


def _image_to_text(ingredients: Ingredients) -> Ranking:
    return ImageToText(ingredients.documents)


_fused_row = partial(MethodRow, reads="fused score, K", ranking=fused)
"""A row that reads MCR's documents."""

ROWS = (
    MethodRow("no-retrieval", reads="none", source=""),
    MethodRow(
        "vote",
        reads="fused score, K; their own answers, or finding labels, are counted",
        does="no model: softmax(score / temperature)",
        source="",
        ranking=voting,
        grid=vote_grid,
        tried="4 temperatures x 3 numbers of pairs",
        generates=False,
    ),
    MethodRow("naive-rag", reads="image-to-text similarity, K", source="", ranking=_image_to_text),
    MethodRow(
        "rule-k",
        reads="image-to-text similarity, calibrated number",
        source="RULE, Xia et al., EMNLP 2024",
        differs="Hoeffding-Bentkus bound with Bonferroni; the smallest rate that can be kept",
        ranking=_image_to_text,
        grid=tuning.counts,
        tried="1 to K documents, by the risk that they control",
        choose=controlled_count,
    ),
    MethodRow(
        "mmed-rag",
        reads="image-to-text similarity, cut where log(s_i / s_i+1) is large",
        source="MMed-RAG, Xia et al., ICLR 2025, paper",
        differs="cut before the first similarity that is not positive",
        ranking=lambda ingredients: GapCut(most=ingredients.documents),
        grid=tuning.cuts("gamma", lambda gamma: gamma),
        tried="12 cuts",
    ),
    MethodRow(
        "mmed-rag-code",
        reads="image-to-text similarity, cut where s_1 / s_i is large",
        source="MMed-RAG, Xia et al., ICLR 2025, code",
        differs='their filter lets negative similarities pass (`negative="keep"`); ours cuts there',
        ranking=lambda ingredients: RatioToFirst(most=ingredients.documents),
        grid=tuning.cuts("ratio", math.exp),
        tried="12 cuts",
    ),
    MethodRow(
        "factmm-rag",
        reads="a map learned so that reports with the same findings come first, 1",
        source="FactMM-RAG, Sun et al., 2024",
        differs="finding labels in place of RadGraph; without labels the row is not run",
        ranking=lambda ingredients: ingredients.learned,
        learns="mrrag_llamaindex.evaluation.methods.factual_agreement:learn_agreement",
    ),
    MethodRow(
        "opera",
        reads="none",
        does="beam search that penalises attention piling up on one answer token",
        source="OPERA, Huang et al., CVPR 2024",
        differs="for a yes or no only its image branch acts",
        decoding="mrrag_llamaindex.generation.decoding.opera:OPERA",
    ),
    MethodRow(
        "pai",
        reads="none",
        does="more attention to the image at every step, guided against the prompt without it",
        source="PAI, Liu et al., ECCV 2024",
        policy="pai",
    ),
    _fused_row(
        "pasta",
        does="attention outside the relevant documents times alpha",
        source="PASTA, Zhang et al., ICLR 2024",
        differs="from the question on and in decode steps, not in earlier rows; no profiled heads",
        policy="pasta",
        grid=tuning.of_policy,
        tried="4 thresholds on lambda x 3 places",
    ),
    _fused_row(
        "hard-mask",
        does="documents below a threshold hidden from the question, or left out",
        source="MR-RAG's own comparison",
        policy="hard-mask",
        grid=tuning.of_policy,
        tried="4 thresholds on lambda x 2 places, and left out of the prompt",
    ),
    _fused_row(
        "cad",
        does="what the documents add to each step's logits, times 1 + alpha",
        source="CAD, Shi et al., NAACL 2024",
        differs="the prompt without documents keeps the image",
        decoding="mrrag_llamaindex.generation.decoding.cad:CAD",
    ),
    _fused_row(
        "mad-rag",
        does="question before and behind the documents; outputs of its two readings are mixed",
        source="MAD-RAG, Zhao et al., 2026 (arXiv 2602.00344)",
        differs="the question's own rows in the prompt, all layers and heads unless tuned",
        policy="mrrag_llamaindex.steering.policies.mad_rag:MADRAG",
        grid=tuning.of_policy,
        tried="4 shares x 3 places",
    ),
    _fused_row(
        "seka",
        does="keys of the relevant documents, moved along directions of relevant text",
        source="SEKA, Li et al., 2026 (arXiv 2603.01281)",
        differs="whole documents by lambda; contrasts from training questions; layers by depth",
        learns_policy="mrrag_llamaindex.evaluation.methods.probing.keys:learn_seka",
        grid=tuning.of_policy,
        tried="4 gains x 3 places",
    ),
    _fused_row(
        "ada-seka",
        does="the same along subspaces of several experts, weighed by the prompt's query",
        source="AdaSEKA, Li et al., 2026 (arXiv 2603.01281)",
        differs="as seka; experts are clusters of questions, not data sets",
        learns_policy="mrrag_llamaindex.evaluation.methods.probing.keys:learn_ada_seka",
        grid=tuning.of_policy,
        tried="4 gains x 3 places",
    ),
    _fused_row(
        "iti",
        does="a shift towards right answers in the heads that tell them best, at every step",
        source="ITI, Li et al., NeurIPS 2023",
        differs="yes and no in place of TruthfulQA; as large a share of the heads",
        learns_policy="mrrag_llamaindex.evaluation.methods.probing.heads:learn_iti",
        grid=tuning.of_policy,
        tried="4 alphas x 3 numbers of heads",
    ),
    _fused_row("mcr", source="MR-RAG, Li et al., CVPR 2026"),
    _fused_row(
        "mcr+ifa",
        does="question attends to documents by lambda (IFA)",
        source="MR-RAG, Li et al., CVPR 2026",
        policy="ifa",
        grid=tuning.of_policy,
        tried="4 strengths x 3 places",
    ),
    _fused_row(
        "mcr+ifa+image",
        does="as mcr+ifa, and the image is raised as a document of a fixed lambda",
        source="ours",
        policy="ifa",
        options={"image": 0.5},
        grid=tuning.image_floors,
        tried="4 lambdas of the image x 3 places",
    ),
    _fused_row(
        "mcr+ifa+layers",
        does="as mcr+ifa, with a strength for each critical layer and a part of its heads",
        source="ours",
        learns_policy="mrrag_llamaindex.evaluation.methods.probing.strengths:learn_strengths",
        tried="12 tries on training questions: strengths, and heads by attention knockout",
        usual=False,
    ),
    *(
        _fused_row(
            f"{of}-{'steps' if steps else 'prompt'}",
            does=f"`{of}` {'in every decode step, too' if steps else 'in the prompt alone'}",
            source="ours",
            policy=policy,
            options={"every_step": steps},
            usual=False,
            grid=tuning.of_policy,
            tried=f"those of `{of}`",
        )
        for of, policy, steps in (
            ("mcr+ifa", "ifa", True),
            ("hard-mask", "hard-mask", True),
            ("pasta", "pasta", False),
        )
    ),
)
"""All methods, in the order of the table."""

METHODS = tuple(row.name for row in ROWS)
"""Their names."""

USUAL = tuple(row.name for row in ROWS if row.usual)
"""Those that run where none is named."""


def row_named(name: str) -> MethodRow:
    """Return the row of a method.

    Raises
    ------
    InputError
        If there is no such method.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise InputError(f"method {name!r} is not known; there are: {', '.join(METHODS)}")


def build_method(
    name: str,
    *,
    documents: int = defaults.MAX_DOCUMENTS,
    weights: AnyWeights | None = None,
    learned: Ranking | None = None,
    policy: Any = None,
) -> Method:
    """Return a method with its published settings, or ours where none were published.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    documents, weights, learned, policy
        See `Ingredients`; equal weights if none are given.

    Raises
    ------
    InputError
        If there is no such method, or it needs a learned ranking or policy and gets none.
    """
    weights = FusionWeights() if weights is None else weights
    ingredients = Ingredients(documents, weights, learned, policy)
    return row_named(name).build(ingredients)


def chosen_methods(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """Read a list of methods, e.g. ``naive-rag,mcr+ifa``; the usual ones if none is named.

    Raises
    ------
    InputError
        If one is not known, or the list is empty.
    """
    if text is None:
        return USUAL
    names = text.split(",") if isinstance(text, str) else text
    selected = [row_named(name.strip()).name for name in names if name.strip()]
    if not selected:
        raise InputError(f"no method is named; there are: {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in selected)


def methods_markdown() -> str:
    """Return the table of the documentation."""
    head = (
        *("row", "documents", "attention or decoding", "source"),
        *("settings tried", "what differs from the original"),
    )
    lines = [
        (f"`{row.name}`", row.reads, row.does, row.source, row.tried, row.differs) for row in ROWS
    ]
    return markdown_table(head, lines)
