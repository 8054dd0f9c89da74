"""Templates that rewrite what they are filled with: their words are read, or they are refused."""

from __future__ import annotations

import sys
from datetime import datetime
from types import SimpleNamespace

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.prompts import (
    ChatPromptTemplate,
    LangchainPromptTemplate,
    PromptTemplate,
    RichPromptTemplate,
    SelectorPromptTemplate,
)
from pydantic import BaseModel

from mrrag_llamaindex import answer_trace, query_image
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.generation.prompt.request import PromptDocument
from mrrag_llamaindex.integration.tickets.markers import mark
from tests.integration.test_templates import (
    QUESTION,
    TEXTS,
    context,
    read,
    registry,
    request,
    ticket,
)

__all__ = ["context", "registry", "ticket"]


def rich(context: str = "{{ context_str }}", question: str = "{{ query_str }}"):
    return RichPromptTemplate(f"Befunde:\n{context}\nFrage: {question}")


def computed(**functions):
    template = "Befunde:\n{context_str}\nFrage: {query_str}"
    return PromptTemplate(template, function_mappings=functions)


def asked(template, registry, context, **variables):
    variables = {"context_str": context, "query_str": QUESTION, **variables}
    return request(read(template, **variables), registry)


def shown(request):
    words = [request.instructions, request.before_question, request.question]
    return "\n".join([*words, request.after_question, *(one.text for one in request.documents)])


PLACED = [
    "{{ context_str | trim }}",
    "{{ context_str | safe }}",
    "{{ context_str | indent(4) }}",
    "{{ context_str }} {{ context_str | length }}",
    "{{ context_str }}\n{{ context_str }}",
    "{{ '<reports>' + context_str + '</reports>' }}",
    "{% if context_str | length < 1000 %}{{ context_str }}{% else %}too much{% endif %}",
    "{% if query_str == 'Is there a nodule?' %}{{ context_str }}{% endif %}",
]


@pytest.mark.parametrize("words", PLACED)
def test_a_context_that_is_written_out_is_the_documents(registry, context, words):
    made = asked(rich(words), registry, context)
    assert [one.text for one in made.documents] == list(TEXTS)
    assert [one.score for one in made.documents] == [1.0, 0.0]
    assert made.question == QUESTION
    assert "[[" not in shown(made)


REWRITTEN = {
    "replaced": (rich("{{ context_str | replace('nodule', 'lesion') }}"), "No lesion."),
    "listed": (
        rich("{% for one in context_str.split('\\n\\n') %}- {{ one }}\n\n{% endfor %}"),
        "- No nodule.",
    ),
    "numbered": (
        rich(
            "{% for d in context_str.split('\\n\\n') %}[{{ loop.index }}] {{ d }}\n\n{% endfor %}"
        ),
        "[2] No nodule.",
    ),
    "by a function": (
        computed(
            context_str=lambda **values: "\n\n".join(
                f"* {one}" for one in values["context_str"].split("\n\n")
            )
        ),
        "* No nodule.",
    ),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_documents_are_read_as_the_template_writes_them(registry, context, name):
    template, second = REWRITTEN[name]
    made = asked(template, registry, context)
    assert [one.document_id for one in made.documents] == ["d0", "d1"]
    assert [one.score for one in made.documents] == [1.0, 0.0]
    assert made.documents[1].text == second
    assert made.question == QUESTION
    assert "[[" not in shown(made)


def test_a_heading_on_the_line_of_the_first_document_is_none_of_its_words(registry, context):
    template = PromptTemplate(
        "Befunde: {context_str}\n{query_str}",
        function_mappings=REWRITTEN["by a function"][0].function_mappings,
    )
    made = asked(template, registry, context)
    assert made.documents[0].text.startswith("* Report:")
    assert "Befunde" not in str(made.documents)


class Selector:
    """Of LangChain's prompts, as LlamaIndex holds them."""

    def __init__(self, default_prompt, conditionals=()):
        self.default_prompt, self.conditionals = default_prompt, list(conditionals)


def test_a_template_of_langchain_is_read_with_what_it_holds_already(hospital, llm, monkeypatch):
    """LlamaIndex's bridge imports packages of LangChain that are no more; its parts stand in."""
    prompts = pytest.importorskip("langchain_core.prompts")
    for name, parts in {
        "llama_index.core.bridge.langchain": {"ConditionalPromptSelector": Selector},
        "llama_index.llms.langchain": {"LangChainLLM": type("LangChainLLM", (), {})},
        "llama_index.llms.langchain.utils": {
            "from_lc_messages": lambda messages: [
                ChatMessage(role="user", content=message.content) for message in messages
            ]
        },
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**parts))
    template = LangchainPromptTemplate(
        prompts.PromptTemplate.from_template("Befunde: {context_str}\nFrage: {query_str}")
    )
    patient = "patient-32"
    engine = hospital.index.as_query_engine(
        llm, text_qa_template=template, image=hospital.images[patient], similarity_top_k=3
    )
    (answer,) = answer_trace(engine.query(QUESTION).source_nodes)
    assert answer.document_ids == hospital.evidence(patient, QUESTION)[:3]
    assert answer.steering.applied


def test_documents_that_a_template_turns_round_or_drops_keep_their_scores(registry, context):
    turned = rich("{{ context_str.split('\\n\\n') | reverse | join('\\n\\n') }}")
    assert [one.text for one in asked(turned, registry, context).documents] == list(TEXTS)
    first = rich("{{ context_str.split('\\n\\n')[0] }}")
    assert [one.document_id for one in asked(first, registry, context).documents] == ["d0"]


HARMED = ("upper", "lower", "title", "truncate(30)", "wordwrap(10)", "length", "reverse", "first")
CUT = ("{{ context_str[:20] }}", "{% for one in context_str %}{{ one }} {% endfor %}")


@pytest.mark.parametrize("words", [*(f"{{{{ context_str | {name} }}}}" for name in HARMED), *CUT])
def test_documents_that_are_not_known_any_more_are_refused_by_name(registry, context, words):
    with pytest.raises(InputError, match="context_str") as refused:
        asked(rich(words), registry, context)
    assert words[:30].split("%")[0] in str(refused.value)
    assert "nodule" not in str(refused.value).lower()


def test_half_a_document_is_no_document(registry, ticket):
    text = mark("Above.\n\nBelow.", ticket.ticket_id, 0)
    with pytest.raises(InputError, match="context_str"):
        asked(rich("{{ context_str.split('\\n\\n')[0] }}"), registry, text)


def test_documents_that_a_host_cut_are_read_as_the_template_writes_them(registry):
    words = [f"nodule{n}" for n in range(120)]
    ticket = registry.issue(QUESTION, [PromptDocument("d0", " ".join(words), 1.0)], None)
    marked = mark(" ".join(words), ticket.ticket_id, 0).split(" ")
    # From the middle of one stretch between markers to the middle of another.
    begin, end = marked.index("nodule30"), marked.index("nodule90")
    text = " ".join(marked[begin:end])
    renamed = rich("{{ context_str | replace('nodule', 'lesion') }}")
    (document,) = asked(renamed, registry, text).documents
    assert document.text.split() == [f"lesion{n}" for n in range(30, 90)]


def test_functions_that_harm_documents_or_question_are_refused_by_name(registry, context):
    loud = computed(context_str=lambda **values: values["context_str"].upper())
    with pytest.raises(InputError, match=r"function_mappings\['context_str'\]"):
        asked(loud, registry, context)
    with pytest.raises(InputError, match="context_str"):
        asked(SelectorPromptTemplate(default_template=loud), registry, context)
    loud = computed(query_str=lambda **values: values["query_str"].upper())
    with pytest.raises(InputError, match=r"function_mappings\['query_str'\]"):
        asked(loud, registry, context)


@pytest.mark.parametrize("filter_", ["upper", "replace('nodule', 'lesion')", "truncate(5)"])
def test_another_question_is_refused_by_name(registry, context, filter_):
    words = f"{{{{ query_str | {filter_} }}}}"
    with pytest.raises(InputError, match="the question") as refused:
        asked(rich(question=words), registry, context)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "words", ["", "{% if context_str | length < 5 %}{{ context_str }}{% endif %}"]
)
def test_documents_that_a_template_leaves_out_are_read(registry, context, words):
    made = asked(rich(words), registry, context)
    assert [one.text for one in made.documents] == list(TEXTS)
    assert made.question == QUESTION


def test_a_question_that_a_template_leaves_out_is_asked(registry, context):
    made = asked(PromptTemplate("Describe: {context_str}"), registry, context)
    assert made.question == QUESTION
    assert [one.text for one in made.documents] == list(TEXTS)
    made = asked(PromptTemplate("Describe."), registry, context)
    assert (made.before_question, made.question) == ("Describe.", QUESTION)


def test_the_question_within_a_longer_text_is_the_question(registry, context):
    polite = computed(query_str=lambda **values: "Please: " + values["query_str"].strip() + " Now.")
    made = asked(polite, registry, context)
    assert (made.question, made.after_question.strip()) == (QUESTION, "Now.")
    assert made.before_question.endswith("Please: ")


def test_a_template_that_writes_the_time_is_read(registry, context):
    now = {"now": lambda **_: datetime.now().isoformat()}
    template = PromptTemplate("{now}\n{context_str}\n{query_str}", function_mappings=now)
    made = asked(template, registry, context)
    assert [one.text for one in made.documents] == list(TEXTS)
    assert made.before_question.startswith("20")


def test_an_empty_value_is_empty_for_conditions(registry, context):
    words = "{% if existing_answer %}So far: {{ existing_answer }}{% endif %}{{ context_msg }}"
    template = rich(words)
    made = request(
        read(template, context_msg=context, query_str=QUESTION, existing_answer=""), registry
    )
    assert "So far" not in made.before_question


class Schema(BaseModel):
    present: bool


def test_a_template_whose_answer_is_to_be_json_is_refused(registry, context):
    template = PromptTemplate(
        "{context_str}\n{query_str}", output_parser=PydanticOutputParser(Schema)
    )
    with pytest.raises(InputError, match="JSON of a schema"):
        asked(template, registry, context)


def chat(*messages):
    return ChatPromptTemplate.from_messages(list(messages))


SPREAD = [
    chat(("system", "Auf Deutsch."), ("system", "{context_str}"), ("user", "{query_str}")),
    chat(("user", "Auf Deutsch. {context_str}"), ("user", "{query_str}")),
    chat(("user", "Auf Deutsch. {context_str}"), ("assistant", "Ja."), ("user", "{query_str}")),
    chat(("system", "Auf Deutsch."), ("tool", "{context_str}"), ("user", "{query_str}")),
]


@pytest.mark.parametrize("template", SPREAD)
def test_a_template_of_several_messages_keeps_its_words(registry, context, template):
    call = read(template, context_str=context, query_str=QUESTION)
    made = request(call, registry)
    assert made.instructions == "Auf Deutsch."
    assert [one.text for one in made.documents] == list(TEXTS)
    assert (made.question, call.history) == (QUESTION, ())


def test_the_question_may_stand_in_the_system_message(registry, context):
    made = asked(
        chat(("system", "Answer: {query_str}"), ("user", "{context_str}")), registry, context
    )
    assert made.question == QUESTION
    assert len(made.documents) == 2


def test_a_system_message_behind_the_context_is_a_memorys(registry, context):
    template = chat(("system", "{context_str}"), ("system", "Summary."), ("user", "{query_str}"))
    call = read(template, context_str=context, query_str=QUESTION)
    assert request(call, registry).instructions == ""
    assert call.left_over == 1


def test_an_answer_that_is_begun_by_the_template_is_refused(registry, context):
    template = chat(("user", "{context_str}\n{query_str}"), ("assistant", "Answer:"))
    with pytest.raises(InputError, match="behind the question"):
        asked(template, registry, context)


def test_engines_read_and_refuse_templates(hospital, llm):
    listed, _ = REWRITTEN["listed"]
    image = hospital.images["patient-31"]
    engine = hospital.index.as_query_engine(llm, text_qa_template=listed, similarity_top_k=3)
    with query_image(image):
        (answer,) = answer_trace(engine.query(QUESTION).source_nodes)
        assert answer.document_ids == hospital.evidence("patient-31", QUESTION)[:3]
        assert answer.steering.applied
        loud = rich("{{ context_str | upper }}")
        engine = hospital.index.as_query_engine(llm, text_qa_template=loud)
        with pytest.raises(InputError, match="upper"):
            engine.query(QUESTION)
        with pytest.raises(InputError, match="upper"):
            str(
                hospital.index.as_query_engine(llm, text_qa_template=loud, streaming=True).query(
                    QUESTION
                )
            )
