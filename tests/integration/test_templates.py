"""A template is read by its variables, whatever its words: question, context, refine, history."""

from __future__ import annotations

from functools import partial

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine.context import DEFAULT_CONTEXT_TEMPLATE
from llama_index.core.chat_engine.utils import get_prefix_messages_with_context
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate, RichPromptTemplate
from llama_index.core.prompts.chat_prompts import CHAT_CONTENT_QA_PROMPT
from llama_index.core.prompts.default_prompt_selectors import (
    DEFAULT_REFINE_PROMPT_SEL,
    DEFAULT_TEXT_QA_PROMPT_SEL,
    DEFAULT_TREE_SUMMARIZE_PROMPT_SEL,
)

from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.integration.tickets.host_call import Turn, TurnRegistry
from mrrag_llamaindex.integration.tickets.markers import mark
from mrrag_llamaindex.integration.tickets.registry import TicketRegistry
from mrrag_llamaindex.integration.tickets.resolve import UNATTRIBUTED, resolve
from mrrag_llamaindex.integration.tickets.templates import read_template, without_markers

QUESTION = "Is there a nodule?"
TEXTS = ('Report: "{braces}" {query_str} and\nQuery: is it a trap?\nAnswer: no.', "No nodule.")


@pytest.fixture
def registry() -> TicketRegistry:
    return TicketRegistry()


@pytest.fixture
def ticket(registry):
    documents = [PromptDocument(f"d{i}", text, 1.0 - i) for i, text in enumerate(TEXTS)]
    return registry.issue("something else", documents, None)


@pytest.fixture
def context(ticket) -> str:
    return "\n\n".join(mark(text, ticket.ticket_id, i) for i, text in enumerate(TEXTS))


def read(template, llm=None, **variables):
    clean = without_markers({**template.kwargs, **variables})
    return read_template(clean, partial(template.format_messages, llm=llm), template)


def request(call, registry):
    return resolve(call, registry, "error", TurnRegistry()).request


STOCK = [DEFAULT_TEXT_QA_PROMPT_SEL, DEFAULT_TREE_SUMMARIZE_PROMPT_SEL]


@pytest.mark.parametrize("template", STOCK)
@pytest.mark.parametrize("chat", [False, True])
def test_stock_sentences_are_left_out(template, chat, llm, registry, context):
    call = read(template, llm if chat else None, context_str=context, query_str=QUESTION)
    asked = request(call, registry)
    assert asked.question == QUESTION
    assert [document.text for document in asked.documents] == list(TEXTS)
    assert asked.before_question + asked.after_question + asked.instructions == ""
    assert call.kind == "answer"


def test_stock_refine_is_a_refine_and_the_earlier_answer_is_no_evidence(llm, registry, context):
    template = DEFAULT_REFINE_PROMPT_SEL.partial_format(query_str=QUESTION, existing_answer="maybe")
    call = read(template, llm, context_msg=context)
    asked = request(call, registry)
    assert (call.kind, asked.question) == ("refine", QUESTION)
    assert "maybe" not in asked.before_question + asked.after_question + asked.instructions


def test_words_in_another_language_stay_and_labels_of_what_left_do_not(registry, context):
    template = PromptTemplate(
        "Kontext: {context_str}\nAntworte auf Deutsch.\nFrage: {query_str}\nFasse dich kurz."
    )
    asked = request(read(template, context_str=context, query_str=QUESTION), registry)
    assert asked.question == QUESTION
    assert asked.before_question.split() == ["Antworte", "auf", "Deutsch.", "Frage:"]
    assert asked.after_question.strip() == "Fasse dich kurz."
    assert [document.document_id for document in asked.documents] == ["d0", "d1"]


def test_refine_in_another_language_reads_all_documents_so_far(registry, ticket):
    qa = PromptTemplate("文脈: {context_str}\n質問: {query_str}")
    refine = PromptTemplate(
        "Frage: {query_str}\nBisherige Antwort: {existing_answer}\n"
        "Neuer Kontext: {context_msg}\nAntwort:"
    )
    first, second = (mark(text, ticket.ticket_id, i) for i, text in enumerate(TEXTS))
    asked = request(read(qa, context_str=first, query_str=QUESTION), registry)
    assert [document.document_id for document in asked.documents] == ["d0"]
    step = read(refine, context_msg=second, query_str=QUESTION, existing_answer="vielleicht")
    asked = request(step, registry)
    assert [document.document_id for document in asked.documents] == ["d0", "d1"]
    words = asked.before_question + asked.after_question
    assert "vielleicht" not in words
    assert "Kontext" not in words


def test_variables_may_be_renamed_and_computed(registry, context):
    template = PromptTemplate(
        "{evidence}\nPatient: {patient}\n{ask}",
        template_var_mappings={"context_str": "evidence", "query_str": "ask"},
        function_mappings={"context_str": lambda **kwargs: f"- {kwargs['context_str']} -"},
    )
    call = read(template, context_str=context, query_str=QUESTION, patient="P7")
    asked = request(call, registry)
    assert asked.question == QUESTION
    assert "Patient: P7" in asked.before_question
    assert [document.document_id for document in asked.documents] == ["d0", "d1"]


def test_rich_templates_and_lists_and_content_blocks(llm, registry, context):
    rich = RichPromptTemplate(
        "{% chat role='system' %}Sois bref.{% endchat %}"
        "{% chat role='user' %}{{ context_str }}\n{{ query_str }}{% endchat %}"
    )
    asked = request(read(rich, context_str=context, query_str=QUESTION), registry)
    assert (asked.question, asked.instructions) == (QUESTION, "Sois bref.")
    as_list = read(STOCK[0], llm, context_str=[context], query_str=QUESTION)
    blocks = [ChatMessage(role="user", content=context)]
    as_blocks = read(CHAT_CONTENT_QA_PROMPT, context_messages=blocks, query_str=QUESTION)
    for call in (as_list, as_blocks):
        asked = request(call, registry)
        assert [document.text for document in asked.documents] == list(TEXTS)
        assert asked.before_question + asked.instructions == ""


def test_a_chat_engine_says_system_prompt_history_and_question(registry, context):
    history = [
        ChatMessage(role="user", content="What of {context_str} and {query_str}?"),
        ChatMessage(role="assistant", content="Nothing."),
    ]
    messages = get_prefix_messages_with_context(
        PromptTemplate(DEFAULT_CONTEXT_TEMPLATE),
        "Answer in French.",
        [],
        history,
        MessageRole.SYSTEM,
    )
    template = ChatPromptTemplate.from_messages(messages)
    call = read(template, context_str=context, query_str=QUESTION)
    assert call.history == (Turn("What of {context_str} and {query_str}?", "Nothing."),)
    asked = request(call, registry)
    assert (asked.instructions, asked.question) == ("Answer in French.", QUESTION)
    assert len(asked.documents) == 2


def test_condensing_is_known_by_its_variables():
    template = PromptTemplate("Verlauf: {chat_history}\nFasse zusammen: {question}")
    call = read(template, chat_history="user: hello\nassistant: hi\nthere", question=QUESTION)
    assert (call.kind, call.question) == ("condense", QUESTION)
    assert call.history == (Turn("hello", "hi\nthere"),)


def test_templates_without_a_question_are_somebody_elses():
    template = PromptTemplate("Pick {num_choices} of {context_list}")
    assert read(template, num_choices=1, context_list="a, b") is None


def test_reports_of_others_are_documents_of_their_own(registry, ticket):
    ours = mark(TEXTS[1], ticket.ticket_id, 1)
    others = "No fracture.", "Clear lungs."
    text = "\n\n".join([others[0], ours, others[1]])
    call = read(STOCK[0], context_str=text, query_str=QUESTION)
    documents = request(call, registry).documents
    assert [document.text for document in documents] == ["No nodule.", *others]
    assert [document.score for document in documents] == [0.0, None, None]
    assert len({document.document_id for document in documents}) == 3
    assert documents[1].document_id == UNATTRIBUTED


def test_observers_see_no_marker(context):
    clean = without_markers({"context_str": context, "n": 1, "context_messages": []})
    assert "mrrag" not in str(clean)
    assert clean["context_str"] == "\n\n".join(TEXTS)
