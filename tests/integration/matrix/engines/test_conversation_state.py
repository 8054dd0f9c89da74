"""What a conversation keeps: memories, histories, prompts, condense steps."""

from __future__ import annotations

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
)
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.memory import (
    ChatMemoryBuffer,
    ChatSummaryMemoryBuffer,
    Memory,
    SimpleComposableMemory,
    VectorMemory,
)
from llama_index.core.schema import TextNode

from mrrag_llamaindex import query_image
from mrrag_llamaindex.errors import EvidenceError
from tests.integration.matrix.asking import SECOND, chat_modes, say
from tests.integration.matrix.conftest import PATIENT, QUESTION
from tests.integration.matrix.readers import MARKER, OtherLLM

pytestmark = pytest.mark.slow


def memories(other):
    embed = MockEmbedding(embed_dim=4)
    vector = VectorMemory.from_defaults(embed_model=embed, retriever_kwargs={"similarity_top_k": 1})
    return {
        "buffer": ChatMemoryBuffer.from_defaults(token_limit=2000),
        "summary": ChatSummaryMemoryBuffer.from_defaults(llm=other, token_limit=40),
        "memory": Memory.from_defaults(session_id="matrix", token_limit=2000),
        "vector": vector,
        "composed": SimpleComposableMemory.from_defaults(
            primary_memory=ChatMemoryBuffer.from_defaults(), secondary_memory_sources=[vector]
        ),
    }


@pytest.mark.parametrize("name", ["buffer", "summary", "memory", "vector", "composed"])
@pytest.mark.parametrize("mode", [ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT])
async def test_memory_holds_no_marker(hospital, llm, other, checks, mode, name):
    memory = memories(other)[name]
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm, memory=memory)
    with query_image(hospital.images[PATIENT]):
        for question in (QUESTION, SECOND, "Is there edema?"):
            response, text = await say(chat, question, "achat")
            checks.answered(response, question, text=text)
    held = await (memory.aget(QUESTION) if name == "vector" else memory.aget_all())
    assert held
    assert MARKER not in str(held)


@chat_modes
async def test_reset_and_go_on_with_another_patient(hospital, llm, checks, model, mode):
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm)
    with query_image(hospital.images["patient-08"]):
        chat.chat(SECOND)
    chat.reset()
    model.images.clear()
    with query_image(hospital.images[PATIENT]):
        response, text = await say(chat, QUESTION, "chat")
    checks.answered(response, text=text)


@pytest.mark.parametrize("mode", [ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT])
def test_prompts_of_ones_own_in_another_language(hospital, llm, checks, model, mode):
    options = {"system_prompt": "Antworte kurz."}
    if mode == ChatMode.CONTEXT:
        options["context_template"] = "Befunde:\n{context_str}\n"
        options["context_refine_template"] = "Mehr:\n{context_msg}\nBisher: {existing_answer}\n"
    else:
        options["context_prompt"] = "Befunde:\n{context_str}\n"
        options["context_refine_prompt"] = "Mehr:\n{context_msg}\nBisher: {existing_answer}\n"
        options["condense_prompt"] = "Verlauf: {chat_history}\nFrage: {question}\nNeu:"
    chat = hospital.index.as_chat_engine(chat_mode=mode, llm=llm, **options)
    with query_image(hospital.images[PATIENT]):
        checks.answered(chat.chat(QUESTION))
        checks.answered(chat.chat(SECOND), SECOND)
    for request in model.requests:
        assert "Antworte kurz." in request.instructions


def test_chat_history_given_from_elsewhere_is_left_out_of_the_prompt(hospital, llm, checks, model):
    """Nobody knows which image it was about."""
    history = [
        ChatMessage(role=MessageRole.USER, content="Is there a fracture?"),
        ChatMessage(role=MessageRole.ASSISTANT, content="yes, on the left"),
    ]
    chat = hospital.index.as_chat_engine(chat_mode=ChatMode.CONTEXT, llm=llm)
    with query_image(hospital.images[PATIENT]):
        response = chat.chat(QUESTION, chat_history=history)
    (answer,) = checks.answered(response)
    assert answer.left_out_turns == 1
    assert not any(request.history for request in model.requests)


def test_stock_chat_over_another_index_says_what_is_missing(llm, hospital):
    nodes = [TextNode(text="There is a nodule.")]
    index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=8))
    chat = index.as_chat_engine(chat_mode=ChatMode.CONTEXT, llm=llm)
    with (
        query_image(hospital.images[PATIENT]),
        pytest.raises(EvidenceError, match="without a ticket"),
    ):
        chat.chat(QUESTION)


async def test_condense_step_by_another_llm(hospital, llm, checks):
    writer = OtherLLM(reply=SECOND)
    chat = CondenseQuestionChatEngine.from_defaults(
        query_engine=hospital.index.as_query_engine(llm), llm=writer
    )
    with query_image(hospital.images[PATIENT]):
        checks.answered(chat.chat(QUESTION), SECOND)
        checks.answered(await chat.achat(QUESTION), SECOND)
    assert not [prompt for prompt in writer.prompts if MARKER in prompt]


@pytest.mark.parametrize("own", [False, True])
def test_stock_engine_condenses_by_the_host_s_words_alone(hospital, llm, checks, own):
    """It sends finished text, and the index's engine sends the template."""
    options = {"condense_prompt": "Verlauf: {chat_history}\nFrage: {question}\n"} if own else {}
    chat = CondensePlusContextChatEngine.from_defaults(
        hospital.index.as_retriever(llm=llm), llm=llm, **options
    )
    with query_image(hospital.images[PATIENT]):
        checks.answered(chat.chat(SECOND), SECOND)
        if own:
            with pytest.raises(EvidenceError, match="finished text"):
                chat.chat(QUESTION)
        else:
            checks.answered(chat.chat(QUESTION))
