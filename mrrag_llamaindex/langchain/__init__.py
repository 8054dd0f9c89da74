"""MR-RAG for LangChain: a retriever, a document compressor and a chat model (extra ``langchain``).

What they share with the LlamaIndex bridge (store, scores, tickets, engine) is the same code, so an
answer about one image from one store is the same in both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrrag_llamaindex.langchain.chat_model import ChatMRRAG as ChatMRRAG
    from mrrag_llamaindex.langchain.compressor import MRRAGCompressor as MRRAGCompressor
    from mrrag_llamaindex.langchain.documents import without_markers as without_markers
    from mrrag_llamaindex.langchain.prompts import (
        create_stuff_documents_chain as create_stuff_documents_chain,
    )
    from mrrag_llamaindex.langchain.prompts import evidence_prompt as evidence_prompt
    from mrrag_llamaindex.langchain.retriever import MRRAGRetriever as MRRAGRetriever

_EXPORTS = {
    "ChatMRRAG": "mrrag_llamaindex.langchain.chat_model",
    "MRRAGCompressor": "mrrag_llamaindex.langchain.compressor",
    "MRRAGRetriever": "mrrag_llamaindex.langchain.retriever",
    "create_stuff_documents_chain": "mrrag_llamaindex.langchain.prompts",
    "evidence_prompt": "mrrag_llamaindex.langchain.prompts",
    "without_markers": "mrrag_llamaindex.langchain.documents",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_EXPORTS[name])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "langchain_core":
            raise
        raise ImportError(
            f"{__name__}.{name} needs langchain-core, which is not here: "
            'pip install "mrrag-llamaindex[langchain]"'
        ) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
