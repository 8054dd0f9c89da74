"""The image that a question of a chain is about."""

from __future__ import annotations

from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.query_image import MissingImage, current_query_image


def image_of_question(
    *given: QueryImage | None, on_missing: MissingImage = "error"
) -> QueryImage | None:
    """Return the one image of a question: what was given, or that of the enclosing block.

    It must be called where the question is asked, and not in a worker thread.

    Raises
    ------
    InputError
        If there are two different images, or none and that is an error.
    EvidenceError
        If nothing was given, and the enclosing block's image cannot be known.
    """
    images = [image for image in given if image is not None]
    try:
        enclosing = current_query_image()
    except EvidenceError:
        if not images:
            raise
        enclosing = None  # what is said explicitly does not depend on where it is said
    if enclosing is not None:
        images.append(enclosing)
    if len(set(images)) > 1:
        raise InputError(
            "this question has two different images, of the call (image=), of the retriever or "
            "compressor (image=) and of an enclosing query_image(...) block: give one of them"
        )
    if not images and on_missing == "error":
        raise InputError(
            "the question has no image. Give it with the question, "
            'retriever.for_inputs(question="input", image="image") in place of the retriever, or '
            "retriever.invoke(question, image=...); or give each image its own retriever, "
            'MRRAGRetriever(index, image=...); or ask inside "with query_image(...)": a stream of '
            "LangChain retrieves when it is first read, so it is read inside the block as well. To "
            'rank by text alone, set on_missing_image="ignore"'
        )
    return images[0] if images else None
