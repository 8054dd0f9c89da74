"""Every chat engine of the host, in its four ways of being asked."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.memory import (
    ChatMemoryBuffer,
)

from mrrag_llamaindex import query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from tests.integration.matrix.asking import SECOND, chat_modes, chat_ways, say
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER

ENGINES = {
    ChatMode.CONTEXT: ContextChatEngine,
    ChatMode.CONDENSE_PLUS_CONTEXT: CondensePlusContextChatEngine,
    ChatMode.CONDENSE_QUESTION: CondenseQuestionChatEngine,
    ChatMode.BEST: CondensePlusContextChatEngine,
}


@chat_ways
@chat_modes
async def test_two_turns_about_one_image(hospital, llm, checks, mode, way):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm)
    assert isinstance(chat, ENGINES[mode])
    with query_image(hospital.images[PATIENT]):
        for question in (QUESTION, SECOND):
            response, text = await say(chat, question, way)
            checks.answered(response, question, text=text)
    assert len(chat.chat_history) == 4
    assert MARKER not in str(chat.chat_history)


@chat_ways
@chat_modes
async def test_engine_bound_to_an_image(hospital, llm, checks, mode, way):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm, image=hospital.images[PATIENT])
    response, text = await say(chat, QUESTION, way)
    checks.answered(response, text=text)


@chat_ways
@chat_modes
async def test_second_patient_reads_nothing_of_the_first(hospital, llm, checks, model, mode, way):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm)
    with query_image(hospital.images["patient-08"]):
        await say(chat, SECOND, way)
    model.requests.clear()
    model.images.clear()
    with query_image(hospital.images[PATIENT]):
        response, text = await say(chat, QUESTION, way)
    checks.answered(response, text=text)
    assert not any(request.history for request in model.requests)
    assert not any(SECOND in request.question for request in model.requests)


@chat_ways
@chat_modes
async def test_chat_by_another_llm_reads_plain_documents(hospital, other, checks, mode, way):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=other)
    with query_image(hospital.images[PATIENT]):
        response, text = await say(chat, QUESTION, way)
    assert text == "yes"
    checks.nodes(response.source_nodes)
    assert "There is pleural effusion." in other.prompts[-1]


@chat_ways
@chat_modes
async def test_chat_without_an_image_is_refused(hospital, llm, mode, way):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm)
    with pytest.raises(InputError, match="has no image"):
        await say(chat, QUESTION, way)


@chat_ways
async def test_simple_chat_without_an_image_says_what_to_take(hospital, llm, way):
    chat = hospital.index.as_chat_engine(chat_mode=ChatMode.SIMPLE, llm=llm)
    assert isinstance(chat, SimpleChatEngine)
    with pytest.raises(EvidenceError, match='chat_mode="context"'):
        await say(chat, QUESTION, way)


async def test_simple_chat_about_an_image_in_a_message(hospital, llm, model):
    """The image counts for the turns after it."""
    block = ImageBlock(path=hospital.images[PATIENT])
    history = [
        ChatMessage(role=MessageRole.USER, blocks=[block, TextBlock(text=SECOND)]),
        ChatMessage(role=MessageRole.ASSISTANT, content="no"),
    ]
    chat = hospital.index.as_chat_engine(
        chat_mode=ChatMode.SIMPLE, llm=llm, memory=ChatMemoryBuffer.from_defaults(history)
    )
    assert str(chat.chat(QUESTION)).strip()
    assert model.images[-1] is not None


@pytest.mark.parametrize("mode", [ChatMode.REACT, ChatMode.OPENAI])
def test_modes_that_the_host_gave_up_say_so(hospital, llm, mode):
    with pytest.raises(ValueError, match="deprecated and removed"):
        hospital.index.as_chat_engine(chat_mode=mode, llm=llm)


@chat_ways
async def test_context_engine_put_together_by_hand(hospital, llm, checks, way):
    retriever = hospital.index.as_retriever(llm=llm, image=hospital.images[PATIENT])
    chat = ContextChatEngine.from_defaults(retriever, llm=llm)
    response, text = await say(chat, QUESTION, way)
    checks.answered(response, text=text)
