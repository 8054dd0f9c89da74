"""Questions that no prompt can hold end in an error that names them, whoever would have counted."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from llama_index.core import QueryBundle
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.query_engine import RetrieverQueryEngine

from mrrag_llamaindex import MRRAGPostprocessor
from mrrag_llamaindex.errors import InputError, MRRAGError, PromptError
from mrrag_llamaindex.integration.inputs.room import question_room, require_room

LONG = "x" * 20_000
"""One word that the phantom does not know, and thousands of tokens to LlamaIndex."""


@pytest.fixture(params=["query", "async", "citations", "chat", "foreign retriever"])
def ask(request, hospital, llm, image):
    index = hospital.index
    if request.param == "chat":
        engine = index.as_chat_engine(ChatMode.CONTEXT, llm=llm, image=image)
        return engine.chat
    if request.param == "citations":
        engine = index.as_citation_engine(llm=llm)
    elif request.param == "foreign retriever":
        engine = RetrieverQueryEngine.from_args(
            index.as_retriever(stamped=False),
            llm=llm,
            node_postprocessors=[MRRAGPostprocessor(index, llm=llm)],
        )
    else:
        engine = index.as_query_engine(llm=llm)
    bundle = {"image_path": str(image)}
    if request.param == "async":
        return lambda question: asyncio.run(engine.aquery(QueryBundle(question, **bundle)))
    return lambda question: engine.query(QueryBundle(question, **bundle))


@pytest.mark.parametrize(
    "question", [LONG, "é" * 20_000, "effusion " * 5_000], ids=["word", "letters", "words"]
)
def test_a_question_that_leaves_no_room_is_named(ask, question) -> None:
    with pytest.raises(PromptError, match=r"the question has [0-9]+ tokens"):
        ask(question)


@pytest.mark.parametrize("question", ["no nodule, " * 500_000, "x" * 60_000], ids=["words", "word"])
def test_an_endless_question_is_refused_before_anybody_reads_it(ask, question) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match="characters, more than any question"):
        ask(question)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("question", ["Is there a nodule? \ud800", "\udfff"])
def test_halves_of_characters_are_named(ask, question) -> None:
    with pytest.raises(MRRAGError, match="valid Unicode") as caught:
        ask(question)
    assert isinstance(caught.value, (InputError, PromptError))


@pytest.mark.filterwarnings("ignore:.*unknown to model")
def test_every_template_of_the_host_fits_beside_the_longest_question(ask, llm) -> None:
    from llama_index.core.utils import get_tokenizer

    room = question_room(llm)
    question = "is " * (room - 5)
    assert room - 50 < len(get_tokenizer()(question)) <= room
    # The host finds room for all of it, else it raises a ValueError; the model itself may not.
    with contextlib.suppress(PromptError):
        ask(question)


def test_short_questions_are_not_counted() -> None:
    require_room("é", 2)
    require_room(LONG, None)
    with pytest.raises(PromptError, match="leaves 1 for it"):
        require_room("éé", 1)
