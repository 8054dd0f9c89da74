"""A conversation may go from one patient to the next: turns about another never reach a prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.chat_engine.types import ChatMode

from mrrag_llamaindex import MRRAGLLaVA, answer_trace, query_image
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.tickets.host_call import Turn, TurnRegistry, turns_of_text

# Other tests ask other questions: a turn in the same words about another image is left out.
QUESTION, FOLLOW_UP = "Is there a small pleural effusion?", "Is there a large nodule?"


class Recording(LlavaEngine):
    """The engine itself, noting what it is asked."""

    requests: list

    def generate(self, requests, *args, **kwargs):
        self.requests.extend(requests)
        return super().generate(requests, *args, **kwargs)


@pytest.fixture
def talker(llm):
    loaded = llm.engine.loaded
    profile = replace(loaded.profile, conversational=True)
    engine = Recording(replace(loaded, profile=profile), max_documents=3, max_new_tokens=3)
    engine.requests = []
    return MRRAGLLaVA(model="phantom", engine=engine)


@pytest.fixture
def patients(hospital):
    return hospital.images["patient-03"], hospital.images["patient-04"]


def test_turns_about_another_patient_leave_and_come_back(hospital, talker, patients):
    chat = hospital.index.as_chat_engine(ChatMode.CONTEXT, llm=talker, similarity_top_k=3)
    first, second = patients
    with query_image(first):
        answer = chat.chat(QUESTION)
    with query_image(second):
        chat.chat(QUESTION)
    assert talker.engine.requests[-1].history == ()
    with query_image(first):
        chat.chat(FOLLOW_UP)
    history = talker.engine.requests[-1].history
    assert all(turn == (QUESTION, str(answer)) for turn in history)
    assert history


def test_the_answer_says_how_many_turns_were_left_out(hospital, talker, patients):
    chat = hospital.index.as_chat_engine(ChatMode.CONTEXT, llm=talker, similarity_top_k=3)
    history = [
        ChatMessage(role="user", content="Of whom?"),
        ChatMessage(role="assistant", content="X"),
    ]
    with query_image(patients[0]):
        response = chat.chat(QUESTION, chat_history=history)
    (answer,) = answer_trace(response.source_nodes)
    assert answer.left_out_turns == 1
    assert talker.engine.requests[-1].history == ()


def test_a_follow_up_is_rephrased_only_within_one_patient(hospital, talker, patients):
    chat = hospital.index.as_chat_engine(llm=talker, similarity_top_k=3)
    first, second = patients
    with query_image(first):
        chat.chat(QUESTION)
        before = len(talker.engine.requests)
        chat.chat(FOLLOW_UP)
    assert len(talker.engine.requests) == before + 2  # to rephrase, and to answer
    before = len(talker.engine.requests)
    with query_image(second):
        chat.chat(FOLLOW_UP)
    assert len(talker.engine.requests) == before + 1


def message(text: str, image: str | None = None) -> ChatMessage:
    blocks = [TextBlock(text=text)]
    if image is not None:
        blocks.append(ImageBlock(path=image))
    return ChatMessage(role="user", blocks=blocks)


def test_images_in_messages_say_what_their_turns_are_about(talker, patients):
    first, second = patients
    answer = ChatMessage(role="assistant", content="yes")
    talker.chat([message(QUESTION, first), answer, message(FOLLOW_UP)])
    assert talker.engine.requests[-1].history == ((QUESTION, "yes"),)
    talker.chat([message(QUESTION, first), answer, message(FOLLOW_UP, second)])
    assert talker.engine.requests[-1].history == ()


def test_the_registry_is_bounded_and_holds_no_text():
    registry = TurnRegistry(capacity=2)
    turns = [Turn(f"question {n}", "yes") for n in range(3)]
    for turn in turns:
        registry.record(turn.question, turn.answer, None)
    assert [registry.about([turn], None) == [turn] for turn in turns] == [False, True, True]
    assert "question" not in str(vars(registry))


def test_one_answer_to_one_question_about_two_images_is_of_neither():
    registry = TurnRegistry()
    first, second, third = (QueryImage(name, b"") for name in "abc")
    turn = Turn(QUESTION, "yes")
    registry.record(turn.question, turn.answer, first)
    assert registry.about([turn], first) == [turn]
    registry.record(turn.question, turn.answer, second)
    # Nobody can tell which of them it was about, so it is left out for both.
    for image in (first, second, third, None):
        assert registry.about([turn], image) == []
    # The boundary between question and answer counts.
    assert registry.about([Turn(QUESTION + "yes", "")], first) == []


def test_a_turn_is_known_by_what_went_before_it():
    registry = TurnRegistry()
    first, second = QueryImage("a", b""), QueryImage("b", b"")
    begin, follow = Turn(QUESTION, "yes"), Turn(FOLLOW_UP, "no")
    registry.record(begin.question, begin.answer, first)
    registry.record(follow.question, follow.answer, first, [begin])
    registry.record(follow.question, follow.answer, second, [Turn(QUESTION, "no")])
    assert registry.about([begin, follow], first) == [begin, follow]
    assert registry.about([begin, follow], second) == []
    assert registry.about([follow], first) == []  # the host has forgotten how it began


def test_conversations_written_as_lines():
    text = "user: one\ntwo\nassistant: three\nassistant: four\nuser: five"
    assert turns_of_text(text) == (Turn("one\ntwo", "three"), Turn("", "four"))
