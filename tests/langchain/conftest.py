"""The hospital of the LlamaIndex tests, asked through LangChain."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.prompts import ChatPromptTemplate

from mrrag_llamaindex import MRRAGLLaVA
from mrrag_llamaindex.langchain import ChatMRRAG, MRRAGRetriever
from tests.integration.conftest import hospital, towers  # noqa: F401 (fixtures)

QUESTION = "Is there a pleural effusion?"
PROMPT = ChatPromptTemplate.from_messages([("system", "{context}"), ("human", "{input}")])


class Observer(BaseCallbackHandler):
    """Writes down all that any callback is given, in every form that a tracer may take."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.prompts: list[str] = []

    def _note(self, *values: Any, **named: Any) -> None:
        for value in (*values, *named.values()):
            self.seen += [repr(value), str(value), f"{value}", dumps(value)]

    on_chain_start = on_chain_end = on_retriever_start = on_retriever_end = _note
    on_llm_end = on_llm_new_token = on_chain_error = on_llm_error = on_retriever_error = _note

    def on_chat_model_start(self, serialized: Any, messages: Any, **named: Any) -> None:
        self._note(serialized, messages, **named)
        self.prompts += [str(message.content) for row in messages for message in row]

    @property
    def markers(self) -> int:
        return sum("[[mrrag:" in text for text in self.seen)


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture(scope="session")
def chat() -> ChatMRRAG:
    return ChatMRRAG(MRRAGLLaVA(model="phantom", max_new_tokens=3))


@pytest.fixture(scope="session")
def retriever(hospital) -> MRRAGRetriever:  # noqa: F811
    return MRRAGRetriever(hospital.index)


@pytest.fixture
def image(hospital) -> str:  # noqa: F811
    return hospital.images["patient-07"]
