"""The last step before an engine's LLM: a ticket for all nodes, or for none."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from typing_extensions import Self

from mrrag_llamaindex.errors import EvidenceError, PromptError
from mrrag_llamaindex.generation.scheduling.off_loop import in_thread
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.inputs.room import require_room
from mrrag_llamaindex.integration.llm import MRRAGLLaVA
from mrrag_llamaindex.integration.query_image import (
    MissingImage,
    enclosing_image,
    read_query_image,
)
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.nodes import evidence_of, other_image
from mrrag_llamaindex.integration.tickets.readers import inner_llm
from mrrag_llamaindex.integration.tickets.stamps import stamp, unstamp

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.prompt.reader import PromptReader


def reader_of(llm: Any) -> PromptReader | None:
    """Return what builds an LLM's prompts, None for one that reads no tickets."""
    inner = inner_llm(llm)
    return inner.engine if isinstance(inner, MRRAGLLaVA) else None


class TicketPostprocessor(BaseNodePostprocessor):
    """Put one ticket on all nodes of a question, or take tickets away.

    It stands behind every other postprocessor, so that those read plain text, whatever LLM they
    use, and what they bring along is a document of its own.

    Parameters
    ----------
    stamped : bool
        Whether the engine's LLM reads tickets; nodes for any other are given none.
    elsewhere : bool
        As for `stamp`.
    image : QueryImage, optional
        The one that the engine is bound to.
    reader : PromptReader, optional
        Of the engine's LLM. Documents longer than its window leaves for them are not shown to it,
        with a warning: a host would cut each into many calls, none of which reads it whole.
    room : int, optional
        Tokens that a question may have, as `question_room` gives them for the engine's LLM.
    on_missing_image : {"error", "ignore"}
        For nodes that do not know what image they were retrieved for.
    """

    stamped: bool = Field(description="Whether the engine's LLM reads tickets.")
    elsewhere: bool = Field(default=False, description="Whether other code sees markers, too.")
    on_missing_image: MissingImage = Field(default="error")
    _image: QueryImage | None = PrivateAttr(None)
    _reader: Any = PrivateAttr(None)
    _room: int | None = PrivateAttr(None)

    def __init__(
        self,
        *,
        image: QueryImage | None = None,
        reader: PromptReader | None = None,
        room: int | None = None,
        **data: Any,
    ) -> None:
        super().__init__(**data)
        self._image = image
        self._reader = reader
        self._room = room

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy for the same model."""
        return self.model_copy()

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name of the class, for serialisation."""
        return "TicketPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._with_ticket(nodes, query_bundle, self._enclosing())

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        # The block around the question is known here and not in the thread.
        enclosing = self._enclosing()
        return await in_thread(self._with_ticket, nodes, query_bundle, enclosing)

    def _enclosing(self) -> QueryImage | None:
        return enclosing_image(self._image) if self.stamped else self._image

    def _with_ticket(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None,
        enclosing: QueryImage | None,
    ) -> list[NodeWithScore]:
        if not self.stamped:
            return unstamp(nodes)
        if not nodes:
            raise EvidenceError(
                "no documents are left for this question: the postprocessors took all of them "
                "away, and LlamaIndex would answer with the words Empty Response"
            )
        bundle = query_bundle or QueryBundle("")
        evidence = evidence_of(nodes)
        known = None if evidence is None else evidence.image
        image = read_query_image(
            bundle, self.on_missing_image if evidence is None else "ignore", known, enclosing
        )
        if evidence is not None and image is not None and image != evidence.image:
            raise other_image()
        question = bundle.query_str or (evidence.question if evidence else "")
        require_room(question, self._room)
        read, withheld = _without_long(nodes, question, self._reader)
        known = image if evidence is None else evidence.image
        return stamp(read, question, known, withheld=withheld, elsewhere=self.elsewhere)


def _without_long(
    nodes: list[NodeWithScore], question: str, reader: PromptReader | None
) -> tuple[list[NodeWithScore], list[NodeWithScore]]:
    """Part the documents from those that no prompt can hold; `PromptError` if all are such."""
    if reader is None:
        return nodes, []
    room = reader.document_room(question)
    texts = [strip(item.node.get_content(metadata_mode=MetadataMode.LLM)) for item in nodes]
    # No token is empty: a short text needs no counting.
    fits = [len(text) <= room or reader.token_count(text) <= room for text in texts]
    long = [item for item, fit in zip(nodes, fits, strict=True) if not fit]
    if not long:
        return nodes, []
    names = ", ".join(repr(item.node.node_id) for item in long)
    if len(long) == len(nodes):
        raise PromptError(
            f"none of the {len(nodes)} documents can be read: each is longer than the {room} "
            f"tokens that this model's window leaves for documents ({names}); split long reports, "
            "or use a model with a longer window"
        )
    warnings.warn(
        f"{len(long)} of {len(nodes)} documents are longer than the {room} tokens that this "
        f"model's window leaves for documents, and are not read: {names}",
        stacklevel=1,  # the host may be any number of frames above
    )
    return [item for item, fit in zip(nodes, fits, strict=True) if fit], long
