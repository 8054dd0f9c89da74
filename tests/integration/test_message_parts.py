"""What a chat message may hold beside text: read, left out where nothing is known, or refused."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.schema import MetadataMode

from mrrag_llamaindex.errors import EvidenceError, InputError, PromptError
from tests.integration.test_conversations import Recording, talker

__all__ = ["Recording", "talker"]

# Other tests ask other questions: a turn in the same words about another image is left out.
QUESTION = "Is there a small calcification?"
EARLIER = "Is there a small fracture?"
PARTS = [
    DocumentBlock(data=b"%PDF-1.4", document_mimetype="application/pdf"),
    AudioBlock(audio=b"x", format="wav"),
    VideoBlock(video=b"x"),
    CachePoint(cache_control=CacheControl(type="ephemeral")),
    CitableBlock(title="t", source="s", content=[TextBlock(text="c")]),
    CitationBlock(
        cited_content=TextBlock(text="c"), source="s", title="t", additional_location_info={}
    ),
    ThinkingBlock(content="hm"),
    ToolCallBlock(tool_name="look", tool_kwargs={}),
]
of_every_kind = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.block_type)


def say(role: str, *parts, **more) -> ChatMessage:
    blocks = [TextBlock(text=part) if isinstance(part, str) else part for part in parts]
    return ChatMessage(role=role, blocks=blocks, **more)


@pytest.fixture
def films(hospital):
    return [ImageBlock(path=hospital.images[f"patient-{n}"]) for n in (11, 12)]


def ask(llm, *messages):
    facts = llm.chat(list(messages)).additional_kwargs["mrrag"]
    return llm.engine.requests[-1], facts


@of_every_kind
def test_the_question_and_instructions_refuse_by_name_what_is_not_read(talker, films, part):
    name = type(part).__name__
    with pytest.raises(InputError, match=f"the question holds a part of type {name}"):
        talker.chat([say("user", QUESTION, part, films[0])])
    with pytest.raises(InputError, match=f"'system' holds a part of type {name}"):
        talker.chat([say("system", "Be brief.", part), say("user", QUESTION, films[0])])


@of_every_kind
def test_an_earlier_question_about_such_a_part_is_left_out(talker, films, part):
    asked, answered = say("user", EARLIER, part, films[0]), say("assistant", "yes")
    request, facts = ask(talker, asked, answered, say("user", QUESTION, films[0]))
    assert request.history == ()
    assert facts["left_out_turns"] == 2  # the question, and an answer to nothing that is known


def test_of_an_earlier_answer_only_words_and_thoughts_may_be_left_out(talker, films):
    before, now = say("user", EARLIER, films[0]), say("user", QUESTION, films[0])
    request, _ = ask(talker, before, say("assistant", ThinkingBlock(content="hm"), "yes"), now)
    assert request.history == ((EARLIER, "yes"),)
    for part in (films[1], PARTS[0]):
        request, facts = ask(talker, before, say("assistant", "yes", part), now)
        assert request.history == ()
        assert facts["left_out_turns"] == 2


def test_images_where_none_is_read_are_refused(talker, films):
    with pytest.raises(InputError, match="'system' holds a part of type ImageBlock"):
        talker.chat([say("system", "As here:", films[1]), say("user", QUESTION, films[0])])
    with pytest.raises(InputError, match="2 images"):
        talker.chat([say("user", QUESTION, *films)])


def test_the_image_of_a_message_must_be_that_of_its_documents(hospital, talker, films):
    path = hospital.images["patient-11"]
    nodes = hospital.index.as_retriever(stamped=True, image=path, similarity_top_k=2).retrieve(
        QUESTION
    )
    text = "\n\n".join(item.node.get_content(MetadataMode.LLM) for item in nodes)
    _, facts = ask(talker, say("system", text), say("user", QUESTION, films[0]))
    assert len(facts["document_ids"]) == 2
    with pytest.raises(EvidenceError, match="another image"):
        talker.chat([say("system", text), say("user", QUESTION, films[1])])
    # A turn about another image does not make this question about it.
    other = say("user", EARLIER, films[1]), say("assistant", "yes")
    request, facts = ask(talker, say("system", text), *other, say("user", QUESTION))
    assert (request.history, facts["left_out_turns"]) == ((), 1)


@pytest.mark.parametrize("role", ["assistant", "chatbot", "model", "system", "developer"])
def test_nothing_stands_behind_the_question(talker, films, role):
    with pytest.raises(InputError, match=f"role '{role}' stands behind the question"):
        talker.chat([say("user", QUESTION, films[0]), say(role, "The answer:")])


@pytest.mark.parametrize("role", ["tool", "function"])
def test_an_agent_is_told_that_results_of_tools_are_not_read(talker, films, role):
    question = say("user", QUESTION, films[0])
    with pytest.raises(EvidenceError, match="a tool was called"):
        talker.chat([question, say(role, "42")])
    request, facts = ask(talker, say("user", EARLIER, films[0]), say(role, "42"), question)
    assert (request.history, facts["left_out_turns"]) == ((), 2)


def test_who_answers_by_another_name_answers(talker, films):
    for role in ("chatbot", "model"):
        request, _ = ask(
            talker, say("user", EARLIER, films[0]), say(role, "yes"), say("user", QUESTION)
        )
        assert request.history == ((EARLIER, "yes"),)
    request, _ = ask(talker, say("developer", "Be brief."), say("user", QUESTION, films[0]))
    assert request.instructions == "Be brief."


def test_options_of_a_message_are_refused_by_name(talker, films):
    options = {"additional_kwargs": {"cache_control": "ephemeral"}}
    with pytest.raises(InputError, match="'cache_control'"):
        talker.chat([say("user", QUESTION, films[0], **options)])
    with pytest.raises(InputError, match="'cache_control'"):
        talker.chat([say("system", "Be brief.", **options), say("user", QUESTION, films[0])])


def test_empty_messages_ask_nothing(talker, films):
    with pytest.raises(InputError, match="no user message"):
        talker.chat([])
    for empty in (say("user", "", films[0]), say("user", films[0])):
        with pytest.raises(PromptError, match="question is empty"):
            talker.chat([empty])
