"""Every class of the installed host is tried here, or `docs/llamaindex.md` says why not."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import llama_index.core
import pytest
from llama_index.core.agent.workflow import AgentWorkflow, BaseWorkflowAgent
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.base_selector import BaseSelector
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.evaluation.base import BaseEvaluator
from llama_index.core.evaluation.retrieval.base import BaseRetrievalEvaluator
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.memory.types import BaseMemory
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.question_gen.types import BaseQuestionGenerator
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.tools import BaseTool

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[2] / "docs" / "llamaindex.md"
BASES = (
    AgentWorkflow,
    BaseChatEngine,
    BaseEvaluator,
    BaseMemory,
    BaseNodePostprocessor,
    BaseQueryEngine,
    BaseQueryTransform,
    BaseQuestionGenerator,
    BaseRetrievalEvaluator,
    BaseRetriever,
    BaseSelector,
    BaseSynthesizer,
    BaseTool,
    BaseWorkflowAgent,
    IngestionPipeline,
)


def modules() -> Iterator[object]:
    """Import every module of the host that can be imported without further packages."""
    for item in pkgutil.walk_packages(llama_index.core.__path__, "llama_index.core."):
        try:
            yield importlib.import_module(item.name)
        except ImportError:
            continue


@pytest.fixture(scope="module")
def installed() -> dict[type, set[str]]:
    """Names of the host's concrete classes, by the base that they are found under."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        members = [cls for module in modules() for _, cls in inspect.getmembers(module, is_class)]
    return {
        base: {
            cls.__name__ for cls in members if issubclass(cls, base) and not inspect.isabstract(cls)
        }
        for base in BASES
    }


def is_class(member: object) -> bool:
    return inspect.isclass(member) and member.__module__.startswith("llama_index.core")


def tried() -> set[str]:
    """Names that the tests of this folder import from the host and use."""
    names: set[str] = set()
    for path in HERE.rglob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llama_index"):
                names |= {alias.name for alias in node.names} & used
    return names


def listed() -> dict[str, str]:
    """Classes that the document's table of the untried names, with the reason."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.partition("## Not tried\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {name: reason for names, reason in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_every_class_is_tried_or_listed_with_a_reason(installed, base):
    assert installed[base]
    missing = installed[base] - tried() - set(listed())
    assert not missing, f"try them in {HERE.name}/, or say in {DOCUMENT.name} why not"


def test_what_is_listed_exists_and_is_not_tried(installed):
    known = {name for names in installed.values() for name in names}
    assert all(reason.strip() for reason in listed().values())
    assert not set(listed()) - known
    assert not set(listed()) & tried()
