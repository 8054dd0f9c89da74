"""MR-RAG for LlamaIndex: medical visual question answering from scored image/report pairs.

Research software, not a medical device. Importing this package registers, patches and
downloads nothing; torch, transformers and chromadb are imported when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrrag_llamaindex.errors import BusyError as BusyError
    from mrrag_llamaindex.errors import MRRAGError as MRRAGError
    from mrrag_llamaindex.errors import NoRelevantCase as NoRelevantCase
    from mrrag_llamaindex.integration.answers.ask import ask as ask
    from mrrag_llamaindex.integration.answers.picture import draw_answer as draw_answer
    from mrrag_llamaindex.integration.answers.vote import ask_by_vote as ask_by_vote
    from mrrag_llamaindex.integration.index import MRRAGIndex as MRRAGIndex
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA as MRRAGLLaVA
    from mrrag_llamaindex.integration.postprocessor import MRRAGPostprocessor as MRRAGPostprocessor
    from mrrag_llamaindex.integration.query_image import query_image as query_image
    from mrrag_llamaindex.integration.retriever import MRRAGRetriever as MRRAGRetriever
    from mrrag_llamaindex.integration.synthesizer import MRRAGSynthesizer as MRRAGSynthesizer
    from mrrag_llamaindex.integration.trace import answer_trace as answer_trace
    from mrrag_llamaindex.mcr.calibration import Calibration as Calibration
    from mrrag_llamaindex.mcr.gated_weights import QueryGatedWeights as QueryGatedWeights
    from mrrag_llamaindex.mcr.score import FusionWeights as FusionWeights
    from mrrag_llamaindex.steering.ifa import IFA as IFA
    from mrrag_llamaindex.steering.policies.hard_mask import HardMask as HardMask
    from mrrag_llamaindex.steering.policies.pai import PAI as PAI
    from mrrag_llamaindex.steering.policies.pasta import PASTA as PASTA
    from mrrag_llamaindex.steering.policies.uniform import Uniform as Uniform
    from mrrag_llamaindex.store.hits import Exclusion as Exclusion
    from mrrag_llamaindex.store.pair import Pair as Pair
    from mrrag_llamaindex.store.protocol import PairStore as PairStore
    from mrrag_llamaindex.towers.loading import load_towers as load_towers
    from mrrag_llamaindex.towers.protocol import DualTower as DualTower

__version__ = "0.2.0"

# Public name -> module, resolved on first use (PEP 562) so that the import stays light.
_EXPORTS = {
    "BusyError": "mrrag_llamaindex.errors",
    "Calibration": "mrrag_llamaindex.mcr.calibration",
    "DualTower": "mrrag_llamaindex.towers.protocol",
    "Exclusion": "mrrag_llamaindex.store.hits",
    "FusionWeights": "mrrag_llamaindex.mcr.score",
    "HardMask": "mrrag_llamaindex.steering.policies.hard_mask",
    "IFA": "mrrag_llamaindex.steering.ifa",
    "MRRAGError": "mrrag_llamaindex.errors",
    "MRRAGIndex": "mrrag_llamaindex.integration.index",
    "MRRAGLLaVA": "mrrag_llamaindex.integration.llm",
    "MRRAGPostprocessor": "mrrag_llamaindex.integration.postprocessor",
    "MRRAGRetriever": "mrrag_llamaindex.integration.retriever",
    "MRRAGSynthesizer": "mrrag_llamaindex.integration.synthesizer",
    "NoRelevantCase": "mrrag_llamaindex.errors",
    "PAI": "mrrag_llamaindex.steering.policies.pai",
    "PASTA": "mrrag_llamaindex.steering.policies.pasta",
    "Pair": "mrrag_llamaindex.store.pair",
    "PairStore": "mrrag_llamaindex.store.protocol",
    "QueryGatedWeights": "mrrag_llamaindex.mcr.gated_weights",
    "Uniform": "mrrag_llamaindex.steering.policies.uniform",
    "answer_trace": "mrrag_llamaindex.integration.trace",
    "ask": "mrrag_llamaindex.integration.answers.ask",
    "ask_by_vote": "mrrag_llamaindex.integration.answers.vote",
    "draw_answer": "mrrag_llamaindex.integration.answers.picture",
    "load_towers": "mrrag_llamaindex.towers.loading",
    "query_image": "mrrag_llamaindex.integration.query_image",
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


def load_ipython_extension(shell: Any) -> None:
    """Make ``%mrrag`` known to a notebook: ``%load_ext mrrag_llamaindex``."""
    app = importlib.import_module("mrrag_llamaindex.commands.app").app
    importlib.import_module("mrrag_llamaindex.commands.start.notebook").register(shell, app)
