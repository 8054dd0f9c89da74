"""LangChain's documents: what they hold for everyone, and what goes with them unseen."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.other_hosts.passages import Facts, Passage, under_ticket
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.nodes import METADATA_KEY


def document_of(passage: Passage, **more: str) -> Document:
    """Return a passage as a document whose facts are ``metadata["mrrag"]``.

    Parameters
    ----------
    passage : Passage
    **more : str
        Further metadata, as the pair's id for hosts that know a document by its metadata alone.
    """
    return Document(
        id=passage.document_id,
        page_content=passage.text,
        metadata={**passage.metadata, **more, METADATA_KEY: passage.facts},
    )


def passages_of(documents: Sequence[Document]) -> list[Passage]:
    """Return documents, of any retriever, as passages.

    Raises
    ------
    InputError
        If something else is among them.
    """
    if isinstance(documents, (str, bytes)) or not isinstance(documents, Sequence):
        kind = type(documents).__name__
        raise InputError(f"a list of documents is needed, not a {kind}: hand on what was retrieved")
    return [_passage(document, number) for number, document in enumerate(documents, start=1)]


def _passage(document: Document, number: int) -> Passage:
    if not isinstance(document, Document):
        kind = type(document).__name__
        raise InputError(f"a list of documents is needed, and a {kind} is among them")
    metadata = dict(document.metadata)
    known = metadata.pop(METADATA_KEY, None)
    facts = known if isinstance(known, Facts) else Facts(known if isinstance(known, dict) else {})
    # Splitters and extractors write documents anew, without an id.
    document_id = facts.document_id or document.id or metadata.get("pair_id") or f"text {number}"
    return Passage(str(document_id), strip(document.page_content), metadata, facts)


def with_markers(
    documents: Sequence[Document], question: str, image: QueryImage | None
) -> list[Document]:
    """Issue one ticket for the documents of a question, and return copies that carry it."""
    texts = under_ticket(passages_of(documents), question, image)
    return [
        document.model_copy(update={"page_content": text})
        for document, text in zip(documents, texts, strict=True)
    ]


def without_markers(documents: Sequence[Document]) -> list[Document]:
    """Return copies of documents whose text has no markers, to show or keep.

    Only documents of a retriever or compressor with ``stamped=True`` have any.
    """
    return [
        document.model_copy(update={"page_content": strip(document.page_content)})
        for document in documents
    ]
