"""`MRRAGCompressor`: MCR scores for the documents of any retriever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import PrivateAttr

from mrrag_llamaindex.generation.scheduling.off_loop import in_thread
from mrrag_llamaindex.integration.inputs.images import read_image
from mrrag_llamaindex.integration.inputs.options import unknown_option
from mrrag_llamaindex.integration.other_hosts.passages import (
    Facts,
    Passage,
    common_evidence,
    rescore,
)
from mrrag_llamaindex.integration.postprocessor import MRRAGPostprocessor
from mrrag_llamaindex.langchain.documents import document_of, passages_of, with_markers
from mrrag_llamaindex.langchain.images import image_of_question
from mrrag_llamaindex.langchain.processes import StaysInProcess

if TYPE_CHECKING:
    from mrrag_llamaindex.images.query_image import QueryImage
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.inputs.images import QuestionImages

_OPTIONS = (
    "weights",
    "calibration",
    "top_n",
    "minimum_probability",
    "minimum_documents",
    "unknown",
    "on_missing_image",
)


class MRRAGCompressor(StaysInProcess, BaseDocumentCompressor):
    """Rank the documents of any retriever by MCR, and keep the best; for compression retrievers.

    Put it last: what comes after it changes what is shown, not what steers. A document belongs to
    the pair whose id is its ``pair_id`` metadata or its own ``id``.

    Parameters
    ----------
    index : MRRAGIndex
    image : path, bytes, PIL.Image.Image, optional
        The image that every question is about. Without it: that of an enclosing `query_image`
        block, or the one that the documents were retrieved for.
    stamped : bool
        As for `MRRAGRetriever`.
    **options
        Those of `MRRAGPostprocessor`: ``top_n``, ``unknown``, ``minimum_probability``, ...

    Raises
    ------
    InputError
        At construction, if an option is none of these.
    """

    _postprocessor: MRRAGPostprocessor = PrivateAttr()
    _image: Any = PrivateAttr()
    _stamped: bool = PrivateAttr()

    def __init__(
        self,
        index: MRRAGIndex,
        *,
        image: QuestionImages | None = None,
        stamped: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        for name in options:
            if name not in _OPTIONS:
                raise unknown_option(name, "MRRAGCompressor", (*_OPTIONS, "image", "stamped"))
        self._postprocessor = MRRAGPostprocessor(index, **options)
        self._image = read_image(image)
        self._stamped = stamped

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return the best of the documents, scored anew; the given ones are not changed.

        Raises
        ------
        EvidenceError
            If they were retrieved for another image than the question is about.
        """
        return self._about(documents, query, self._image_of(documents))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Do the same without blocking the event loop."""
        # The block around the question is known here and not in the thread.
        image = self._image_of(documents)
        return await in_thread(self._about, documents, query, image)

    @staticmethod
    def _passages(documents: Sequence[Document]) -> list[Passage]:
        """Return the documents; scores that nothing is known of do not matter, being taken anew."""
        return [
            item if item.facts.evidence is not None else replace(item, facts=Facts())
            for item in passages_of(documents)
        ]

    def _image_of(self, documents: Sequence[Document]) -> QueryImage | None:
        evidence = common_evidence(self._passages(documents))
        on_missing = "ignore" if evidence else self._postprocessor.on_missing_image
        image = image_of_question(self._image, on_missing=on_missing)
        return evidence.image if evidence and image is None else image

    def _about(
        self, documents: Sequence[Document], query: str, image: QueryImage | None
    ) -> list[Document]:
        if not documents:
            return []
        passages = rescore(self._postprocessor, self._passages(documents), query, image)
        result = [document_of(passage) for passage in passages]
        return with_markers(result, query, image) if self._stamped else result
