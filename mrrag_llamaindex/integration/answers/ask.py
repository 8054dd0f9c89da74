"""Ask one question through a stock query engine and gather all that is known of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import NodeWithScore, QueryBundle

from mrrag_llamaindex.integration.answers.retrieval import score_facts
from mrrag_llamaindex.integration.inputs.images import QuestionImages, read_image
from mrrag_llamaindex.integration.query_image import query_image
from mrrag_llamaindex.integration.tickets.nodes import METADATA_KEY
from mrrag_llamaindex.integration.trace import answer_trace

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.answer import Answer
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA


@dataclass(frozen=True)
class AskResult:
    """One question, its answer, and the documents behind it.

    Attributes
    ----------
    question : str
    text : str
        What the engine answered.
    answer : Answer
        The last LLM call: probabilities, documents read and dropped, steering.
    source_nodes : list of NodeWithScore
    seconds : dict of str to float
        Wall-clock time of ``retrieve`` and ``answer``.
    """

    question: str
    text: str
    answer: Answer
    source_nodes: list[NodeWithScore]
    seconds: dict[str, float]

    def sources(self) -> list[dict[str, Any]]:
        """Return the facts of every source, best first.

        Pair id, ids of further views of its study, score, similarity terms, lambda, whether the
        model read it, the probability that it supports a right answer (None without a calibration),
        and, of an LLM that explains, its ``influence`` (None if the prompt did not hold it).
        """
        rows: list[dict[str, Any]] = []
        influences = self.answer.influence
        for item in self.source_nodes:
            read = item.node.node_id in self.answer.document_ids
            rows.append({**score_facts(item), "read": read})
            if influences is not None:
                influence = influences.get(item.node.node_id)
                rows[-1]["influence"] = None if influence is None else asdict(influence)
        return rows

    @property
    def left_out(self) -> int:
        """Number of documents that were not shown because they were not probable enough."""
        return max(
            (item.node.metadata[METADATA_KEY].get("left_out", 0) for item in self.source_nodes),
            default=0,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the answer and its sources as plain values for JSON."""
        return {
            "question": self.question,
            "answer": self.text,
            "p_yes": self.answer.p_yes,
            "p_no": self.answer.p_no,
            "sources": self.sources(),
            "abstained": False,
            "left_out": self.left_out,
            "dropped": list(self.answer.dropped),
            "image_read": self.answer.image_read,
            "steering": {
                "applied": self.answer.steering.applied,
                "layers": list(self.answer.steering.layers),
                "rows": self.answer.steering.rows,
                "reason": self.answer.steering.reason,
                "question_tokens": self.answer.steering.question_tokens,
                "document_tokens": self.answer.steering.document_tokens,
                "image_tokens": self.answer.steering.image_tokens,
                "every_step": self.answer.steering.every_step,
            },
            "unknown_words": self.answer.unknown_tokens,
            "seconds": dict(self.seconds),
        }


def ask(
    index: MRRAGIndex,
    llm: MRRAGLLaVA,
    image: QuestionImages,
    question: str,
    *,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> AskResult:
    """Ask ``question`` about ``image``.

    Parameters
    ----------
    index : MRRAGIndex
    llm : MRRAGLLaVA
    image : path, bytes, PIL.Image.Image, QueryImage, or a list of these: one study
    question : str
    say : callable, optional
        Told what is being done.
    **options
        Those of `MRRAGRetriever`.

    Raises
    ------
    NoRelevantCase
        With ``abstain=True``, where no document is probable enough.
    MRRAGError
        If anything else was wrong.
    """
    study = read_image(image)
    assert study is not None
    llm.engine.require_images(len(study.views))
    engine = index.as_query_engine(llm=llm, **options)
    bundle = QueryBundle(question)
    with query_image(study):
        started = time.perf_counter()
        nodes = engine.retrieve(bundle)
        retrieved = time.perf_counter()
        if say is not None:
            say(f"{len(nodes)} documents retrieved; the model reads them and answers")
        response = engine.synthesize(bundle, nodes)
    seconds = {"retrieve": retrieved - started, "answer": time.perf_counter() - retrieved}
    answer = answer_trace(response.source_nodes)[-1]
    return AskResult(question, str(response), answer, response.source_nodes, seconds)
