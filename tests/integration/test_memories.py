"""Memories of chat engines: what they sum up or recall may be about any image, and is left out."""

from __future__ import annotations

import asyncio
import json

import pytest
from llama_index.core.base.llms.types import ChatResponse, ImageBlock
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.memory import (
    BaseMemoryBlock,
    ChatMemoryBuffer,
    ChatSummaryMemoryBuffer,
    FactExtractionMemoryBlock,
    Memory,
    SimpleComposableMemory,
    StaticMemoryBlock,
)
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.storage.chat_store import SimpleChatStore

from mrrag_llamaindex import answer_trace, query_image
from mrrag_llamaindex.errors import EvidenceError, InputError
from tests.integration.test_conversations import Recording, talker

__all__ = ["Recording", "talker"]

SECRET = "Patient X has a secret tumour."
QUESTIONS = ("Is there a tiny nodule?", "Is there a tiny edema?", "Is there a tiny fracture?")
MODES = ("context", "condense_plus_context", "condense_question")


class Summarist(MockLLM):
    def chat(self, messages, **kwargs):
        return ChatResponse(message=ChatMessage(role="assistant", content=SECRET))

    async def achat(self, messages, **kwargs):
        return self.chat(messages)


class Earlier(BaseMemoryBlock):
    """Messages of another conversation."""

    async def _aget(self, messages=None, **kwargs):
        return [
            ChatMessage(role="user", content=SECRET),
            ChatMessage(role="assistant", content="yes"),
        ]

    async def _aput(self, messages):
        pass


def in_blocks(*blocks, **options):
    return lambda: Memory.from_defaults(memory_blocks=list(blocks), **options)


MEMORIES = {
    "summary": lambda: ChatSummaryMemoryBuffer.from_defaults(llm=Summarist(), token_limit=12),
    "static": in_blocks(StaticMemoryBlock(static_content=SECRET)),
    "in the user's message": in_blocks(
        StaticMemoryBlock(static_content=SECRET), insert_method="user"
    ),
    "facts": in_blocks(FactExtractionMemoryBlock(llm=Summarist(), facts=[SECRET])),
    "messages": in_blocks(Earlier(name="earlier")),
    "several": lambda: SimpleComposableMemory.from_defaults(
        primary_memory=ChatMemoryBuffer.from_defaults(),
        secondary_memory_sources=[
            ChatMemoryBuffer.from_defaults(chat_history=[ChatMessage(role="user", content=SECRET)])
        ],
    ),
}


@pytest.mark.parametrize(
    ("name", "mode", "way"),
    [(name, mode, "chat") for name in MEMORIES for mode in MODES]
    + [("facts", mode, "achat") for mode in MODES],
)
def test_what_a_memory_recalls_reaches_no_prompt(hospital, talker, name, mode, way):
    chat = hospital.index.as_chat_engine(
        mode, llm=talker, memory=MEMORIES[name](), similarity_top_k=2
    )
    for patient in ("patient-21", "patient-21", "patient-22"):
        for question in QUESTIONS[:2]:
            with query_image(hospital.images[patient]):
                answer = getattr(chat, way)(question)
                response = asyncio.run(answer) if way == "achat" else answer
    assert len(talker.engine.requests) >= 6
    assert "secret" not in str(talker.engine.requests)
    if mode != "condense_question":  # which searches, and does not converse
        assert answer_trace(response.source_nodes)[-1].left_out_turns > 0


def test_a_stock_engine_with_a_memory_that_sums_up(hospital, talker):
    memory = MEMORIES["summary"]()
    retriever = hospital.index.as_retriever(llm=talker, similarity_top_k=2)
    chat = ContextChatEngine.from_defaults(
        retriever, llm=talker, memory=memory, system_prompt="Answer in one word."
    )
    for patient in ("patient-23", "patient-23", "patient-24"):
        with query_image(hospital.images[patient]):
            chat.chat(QUESTIONS[0])
    assert SECRET in str(memory.get_all())
    assert "secret" not in str(talker.engine.requests)
    assert {one.instructions for one in talker.engine.requests} == {"Answer in one word."}


def test_a_summary_in_finished_messages_is_left_out(talker, hospital):
    asked = ChatMessage(role="user", content=QUESTIONS[0])
    asked.blocks.append(ImageBlock(path=hospital.images["patient-25"]))
    rules, summary = (ChatMessage(role="system", content=text) for text in ("Be brief.", SECRET))
    turn = [ChatMessage(role="user", content="Hello?"), summary]
    facts = talker.chat([rules, *turn, asked]).additional_kwargs["mrrag"]
    request = talker.engine.requests[-1]
    assert (request.instructions, facts["left_out_turns"]) == ("Be brief.", 2)
    recalled = ChatMessage(role="system", content=f"<memory>\n{SECRET}\n</memory>\nBe brief.")
    talker.chat([recalled, asked])
    assert talker.engine.requests[-1].instructions == "Be brief."


def test_memories_of_several_parts_in_finished_messages(talker, hospital):
    asked = ChatMessage(role="user", content=QUESTIONS[0])
    asked.blocks.append(ImageBlock(path=hospital.images["patient-25"]))
    memory = MEMORIES["several"]()
    memory.put(ChatMessage(role="system", content="Be brief."))
    facts = talker.chat([*memory.get(), asked]).additional_kwargs["mrrag"]
    request = talker.engine.requests[-1]
    assert (request.instructions, facts["left_out_turns"]) == ("Be brief.", 1)


@pytest.mark.parametrize("mode", ["context", "condense_plus_context"])
def test_templates_that_a_chat_engine_cannot_fill_are_refused(hospital, llm, mode):
    name = {"context": "context_template", "condense_plus_context": "context_prompt"}[mode]
    rich = RichPromptTemplate("{{ context_str }}")
    with pytest.raises(InputError, match=f"{name} is a RichPromptTemplate"):
        hospital.index.as_chat_engine(mode, llm=llm, **{name: rich})


def test_a_follow_up_is_not_rephrased_from_a_summary(hospital, talker):
    chat = hospital.index.as_chat_engine(
        "condense_question", llm=talker, memory=MEMORIES["summary"](), similarity_top_k=2
    )
    with query_image(hospital.images["patient-26"]):
        for question in QUESTIONS:
            before = len(talker.engine.requests)
            chat.chat(question)
    assert len(talker.engine.requests) == before + 1  # it was answered, and not rephrased before


@pytest.mark.parametrize(
    "make",
    [
        lambda llm: ChatSummaryMemoryBuffer.from_defaults(llm=llm),
        lambda llm: Memory.from_defaults(memory_blocks=[FactExtractionMemoryBlock(llm=llm)]),
    ],
)
@pytest.mark.parametrize("mode", [*MODES, "simple"])
def test_a_memory_that_needs_another_llm_is_refused(hospital, talker, make, mode):
    memory = make(talker)
    with pytest.raises(InputError, match="give it another LLM"):
        hospital.index.as_chat_engine(mode, llm=talker, memory=memory)
    assert hospital.index.as_chat_engine(mode, llm=MockLLM(), memory=memory)


def test_asked_to_sum_up_the_model_says_what_to_do(talker):
    memory = ChatSummaryMemoryBuffer.from_defaults(llm=talker, token_limit=5)
    for _ in range(3):
        memory.put(ChatMessage(role="user", content="Is there a very small nodule?"))
    with pytest.raises(EvidenceError, match="memory another LLM"):
        memory.get()


def test_prefixed_turns_are_refused(hospital, llm):
    turn = ChatMessage(role="user", content="Is it big?")
    rules = ChatMessage(role="system", content="Be brief.")
    for messages in ([turn], [rules, turn], [rules, rules]):
        with pytest.raises(InputError, match="prefix_messages"):
            hospital.index.as_chat_engine("context", llm=llm, prefix_messages=messages)
    assert hospital.index.as_chat_engine("context", llm=llm, prefix_messages=[rules])


def test_a_conversation_from_a_file_keeps_its_patients_apart(hospital, talker, tmp_path):
    file = tmp_path / "chat.json"
    first, second = hospital.images["patient-27"], hospital.images["patient-28"]

    def engine(messages):
        store = SimpleChatStore(store={"ward": messages})
        memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="ward")
        return hospital.index.as_chat_engine("context", llm=talker, memory=memory), store

    chat, store = engine([])
    with query_image(first):
        chat.chat("Is there a lasting nodule?")  # in words that no other test uses
    file.write_text(json.dumps([one.model_dump(mode="json") for one in store.store["ward"]]))
    for image, known in ((second, 0), (first, 1)):
        chat, _ = engine([ChatMessage(**one) for one in json.loads(file.read_text())])
        with query_image(image):
            chat.chat("Is there a lasting edema?")
        assert len(talker.engine.requests[-1].history) == known
