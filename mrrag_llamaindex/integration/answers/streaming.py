"""One question of a conversation, answered while it is read, by the evidence of its own image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import MetadataMode, NodeWithScore

from mrrag_llamaindex.errors import EvidenceError
from mrrag_llamaindex.integration.answers.ask import AskResult
from mrrag_llamaindex.integration.entry_points import HostMessages
from mrrag_llamaindex.integration.inputs.images import QuestionImages, read_image
from mrrag_llamaindex.integration.tickets.host_call import HostCall, Turn
from mrrag_llamaindex.integration.tickets.nodes import ticket_of
from mrrag_llamaindex.integration.tickets.registry import TICKETS
from mrrag_llamaindex.integration.trace import answer_trace

if TYPE_CHECKING:
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA


class AnswerStream:
    """Iterator over the pieces of one answer, whose documents are known before it begins.

    Make it with `stream`; generation begins with the first read.

    Parameters
    ----------
    question : str
    source_nodes : list of NodeWithScore
        The documents that were retrieved, best first.
    replies : iterator
        Of the LLM, see `EntryPoints.stream_chat`.
    retrieved_in : float
        Seconds that the retrieval took.

    Attributes
    ----------
    question, source_nodes
    result : AskResult or None
        Everything about the answer, once it has been read to its end.
    """

    def __init__(
        self,
        question: str,
        source_nodes: list[NodeWithScore],
        replies: Iterator[Any],
        retrieved_in: float,
    ) -> None:
        self.question = question
        self.source_nodes = source_nodes
        self.result: AskResult | None = None
        self._replies = replies
        self._retrieved_in = retrieved_in

    def __iter__(self) -> Iterator[str]:
        started = time.perf_counter()
        try:
            for reply in self._replies:
                if reply.delta:
                    yield reply.delta
        finally:
            self.close()
        answers = answer_trace(self.source_nodes)
        if not answers:
            return  # closed before its end
        answer = answers[-1]
        seconds = {"retrieve": self._retrieved_in, "answer": time.perf_counter() - started}
        self.result = AskResult(self.question, answer.text, answer, self.source_nodes, seconds)

    def close(self) -> None:
        """Stop generating, and hold its evidence no longer; not while another thread reads."""
        self._replies.close()  # type: ignore[attr-defined]
        for ticket in map(ticket_of, (item.node for item in self.source_nodes)):
            if ticket is not None:
                TICKETS.drop(ticket)


def stream(
    index: MRRAGIndex,
    llm: MRRAGLLaVA,
    image: QuestionImages,
    question: str,
    *,
    history: Sequence[Turn] = (),
    left_over: int = 0,
    instructions: str = "",
    max_new_tokens: int | None = None,
    **options: Any,
) -> AnswerStream:
    """Retrieve for ``question`` about ``image``, and answer it piece by piece.

    Parameters
    ----------
    index : MRRAGIndex
    llm : MRRAGLLaVA
    image : path, bytes, PIL.Image.Image, QueryImage, or a list of these: one study
    question : str
    history : sequence of Turn
        Earlier turns; those about another image, or it is not known which, never reach the prompt.
    left_over : int
        Earlier messages that belong to no turn, which the prompt lacks as well.
    instructions : str
        What the application tells the model beside the question.
    max_new_tokens : int, optional
        Longest answer; default: that of ``llm``.
    **options
        Those of `MRRAGRetriever`.

    Raises
    ------
    NoRelevantCase
        With ``abstain=True``, where no document is probable enough.
    MRRAGError
        If anything else was wrong; what is wrong with the prompt is said here, not at the first
        read.
    """
    started = time.perf_counter()
    query = read_image(image)
    llm.engine.require_images(0 if query is None else len(query.views))
    retriever = index.as_retriever(llm=llm, image=query, stamped=True, **options)
    nodes = retriever.retrieve(question)
    retrieved_in = time.perf_counter() - started
    if not nodes:
        raise EvidenceError("no documents were found for this question")
    shown = "\n\n".join(item.node.get_content(metadata_mode=MetadataMode.LLM) for item in nodes)
    messages = HostMessages([ChatMessage(role=MessageRole.USER, content=question)])
    messages.call = HostCall(
        "answer",
        question,
        contexts=(shown,),
        instructions=instructions,
        history=tuple(history),
        left_over=left_over,
    )
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    return AnswerStream(question, nodes, llm.stream_chat(messages, **limit), retrieved_in)
