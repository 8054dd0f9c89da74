"""`MRRAGRetriever`: image/report pairs, ranked by the fused score, in any chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from pydantic import PrivateAttr

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.generation.scheduling.off_loop import in_thread
from mrrag_llamaindex.integration.inputs.images import read_image
from mrrag_llamaindex.integration.inputs.options import unknown_option
from mrrag_llamaindex.integration.other_hosts.passages import retrieve
from mrrag_llamaindex.langchain.documents import document_of, with_markers
from mrrag_llamaindex.langchain.filters import filter_of_mapping
from mrrag_llamaindex.langchain.images import image_of_question
from mrrag_llamaindex.langchain.processes import StaysInProcess

if TYPE_CHECKING:
    from mrrag_llamaindex.images.query_image import QueryImage
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.inputs.images import QuestionImages

_HOST_FIELDS = ("name", "tags", "metadata")


class MRRAGRetriever(StaysInProcess, BaseRetriever):
    """Retrieve pairs by the fused score of image-text, image-image and text-text similarity.

    The question's image is given with it (`for_inputs`, or ``invoke(question, image=...)``), bound
    to the retriever (``image=``), or that of an enclosing `query_image` block. A document's
    ``page_content`` is the report, its ``id`` (and ``metadata["pair_id"]``) the pair's, and
    ``metadata["mrrag"]`` holds score, terms, rank and lambda. The image goes with the documents,
    unseen.

    Parameters
    ----------
    index : MRRAGIndex
    image : path, bytes, PIL.Image.Image, optional
        The image that every question is about, read here, once.
    filters : mapping, MetadataFilters, Comparison or Combination, optional
        What a pair's metadata must be; for a mapping see `filter_of_mapping`.
    stamped : bool
        Write markers into ``page_content``, for a formatter of documents of your own. Everyone who
        reads it sees them: other models, callbacks, results. `evidence_prompt` and
        `create_stuff_documents_chain` do without.
    name, tags, metadata
        Those of every retriever of LangChain.
    **options
        Those of the LlamaIndex `MRRAGRetriever`: ``similarity_top_k``, ``exclude``,
        ``minimum_probability``, ``abstain``, ``on_missing_image``, ``weights``, ...

    Raises
    ------
    InputError
        At construction, if an option is none of these.
    """

    _retriever: Any = PrivateAttr()
    _image: Any = PrivateAttr()
    _stamped: bool = PrivateAttr()

    def __init__(
        self,
        index: MRRAGIndex,
        *,
        image: QuestionImages | None = None,
        filters: Any = None,
        stamped: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**{key: options.pop(key) for key in _HOST_FIELDS if key in options})
        if isinstance(filters, Mapping):
            filters = filter_of_mapping(filters)
        self._retriever = index.as_retriever(filters=filters, **options)
        self._image = read_image(image)
        self._stamped = stamped

    def for_inputs(
        self, question: str = "input", image: str = "image"
    ) -> Runnable[dict[str, Any], list[Document]]:
        """Return it as a step of a chain whose inputs hold the question and its image.

        Every question of a batch, a stream or a parallel step then has its own image.

        Parameters
        ----------
        question, image : str
            Keys of the chain's inputs.
        """

        def inputs_of(inputs: dict[str, Any]) -> tuple[str, Any]:
            missing = [key for key in (question, image) if key not in inputs]
            if missing:
                raise InputError(f"the chain's inputs have no {missing[0]!r}")
            return inputs[question], inputs[image]

        def invoke(inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
            text, source = inputs_of(inputs)
            return self.invoke(text, config, image=source)

        async def ainvoke(inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
            text, source = inputs_of(inputs)
            return await self.ainvoke(text, config, image=source)

        return RunnableLambda(invoke, ainvoke, name=self.get_name())

    def _get_relevant_documents(
        self, query: str, *, run_manager: Any, image: QuestionImages | None = None, **options: Any
    ) -> list[Document]:
        return self._about(query, self._image_of(image, options))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: Any, image: QuestionImages | None = None, **options: Any
    ) -> list[Document]:
        given = await in_thread(read_image, image)
        # The block around the question is known here and not in the thread.
        return await in_thread(self._about, query, self._image_of(given, options))

    def _image_of(self, given: QuestionImages | None, options: dict[str, Any]) -> QueryImage | None:
        for name in options:
            raise unknown_option(name, "a call of MRRAGRetriever", ["image"])
        on_missing = self._retriever.on_missing_image
        return image_of_question(read_image(given), self._image, on_missing=on_missing)

    def _about(self, query: str, image: QueryImage | None) -> list[Document]:
        if not isinstance(query, str):
            raise InputError(
                f"the question is a {type(query).__name__} and not text; for a chain's inputs take "
                "retriever.for_inputs(question=..., image=...)"
            )
        passages = retrieve(self._retriever, query, image)
        documents = [document_of(item, pair_id=item.document_id) for item in passages]
        return with_markers(documents, query, image) if self._stamped else documents
