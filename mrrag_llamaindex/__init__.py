"""MR-RAG for LlamaIndex: medical visual question answering from scored image/report pairs.

Research software, not a medical device. Importing this package registers, patches and
downloads nothing; torch, transformers and chromadb are imported when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrrag_llamaindex.errors import MRRAGError

__version__ = "0.1.0"

# Public name -> module, resolved on first use (PEP 562) so that the import stays light.
_EXPORTS = {
    "MRRAGError": "mrrag_llamaindex.errors",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
