"""Prompts that rewrite the documents: read as they are written, or refused by name."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from langchain_core.messages import SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.other_hosts.calls import question_call
from mrrag_llamaindex.integration.tickets.registry import TICKETS
from mrrag_llamaindex.integration.tickets.resolve import resolve
from mrrag_llamaindex.langchain import MRRAGRetriever, evidence_prompt
from mrrag_llamaindex.langchain.messages import rows_of
from tests.langchain.conftest import QUESTION


@pytest.fixture(scope="module")
def documents(hospital):
    retriever = MRRAGRetriever(hospital.index, similarity_top_k=3)
    return retriever.invoke(QUESTION, image=hospital.images["patient-17"])


def asked(prompt, documents, **more):
    """Return what the model reads of a prompt, which is the same however it is filled."""
    inputs = {"context": documents, "input": QUESTION, **more}
    filled = evidence_prompt(prompt)
    requests = []
    for value in (filled.invoke(inputs), asyncio.run(filled.ainvoke(inputs))):
        assert "[[mrrag:" not in str(value)
        call = question_call(rows_of(value.to_messages()), "")
        requests.append(resolve(call, TICKETS, "error").request)
    assert requests[0].documents == requests[1].documents
    return requests[0]


def jinja(words):
    text = f"Befunde:\n{words}\nFrage: {{{{ input }}}}"
    return PromptTemplate.from_template(text, template_format="jinja2")


PLACED = {
    "jinja": jinja("{{ context }}"),
    "on a condition": jinja("{% if context | length < 9999 %}{{ context }}{% endif %}"),
    "twice": jinja("{{ context }}\n{{ context }}"),
    "in quotes": PromptTemplate.from_template("{context!r}\n{input}"),
    "mustache": PromptTemplate.from_template(
        "{{{context}}}\n{{input}}", template_format="mustache"
    ),
    "with the time": PromptTemplate.from_template("{now} {context}\n{input}").partial(
        now=lambda: datetime.now().isoformat()
    ),
}


@pytest.mark.parametrize("name", PLACED)
def test_documents_that_are_written_out_are_read(documents, name):
    request = asked(PLACED[name], documents)
    assert [one.text for one in request.documents] == [one.page_content for one in documents]
    assert request.question == QUESTION


def test_documents_are_read_as_the_prompt_writes_them(documents):
    numbered = "{% for d in context.split('\\n\\n') %}[{{ loop.index }}] {{ d }}\n\n{% endfor %}"
    request = asked(jinja(numbered), documents)
    texts = [f"[{place}] {one.page_content}" for place, one in enumerate(documents, start=1)]
    assert [one.text for one in request.documents] == texts
    assert [one.score for one in request.documents] == [
        one.metadata["mrrag"]["score"] for one in documents
    ]
    request = asked(jinja("{{ context | replace('There is', 'I see') }}"), documents)
    assert all(one.text.startswith("I see") for one in request.documents)


HARMED = [
    "{{ context | upper }}",
    "{{ context | lower }}",
    "{{ context | truncate(40) }}",
    "{{ context[:30] }}",
    "{{ context | length }}",
    "{% if false %}{{ context }}{% endif %}",
]


@pytest.mark.parametrize("words", HARMED)
@pytest.mark.parametrize("chat", [False, True])
def test_documents_that_are_not_known_any_more_are_refused_by_name(documents, words, chat):
    prompt = jinja(words)
    if chat:
        prompt = ChatPromptTemplate.from_messages(
            [("human", prompt.template)], template_format="jinja2"
        )
    with pytest.raises(InputError, match="context") as refused:
        asked(prompt, documents)
    assert words.removeprefix("{% if false %}").removesuffix("{% endif %}") in str(refused.value)


def test_a_precision_cuts_documents(documents):
    with pytest.raises(InputError, match="does not write out"):
        asked(PromptTemplate.from_template("{context:.30}\n{input}"), documents)


def test_a_summary_in_a_history_is_left_out_wherever_the_documents_stand(documents, chat):
    for words in (
        [("human", "{context}\n{input}")],
        [("system", "{context}"), ("human", "{input}")],
    ):
        prompt = ChatPromptTemplate.from_messages(
            [("system", "Be brief."), MessagesPlaceholder("history"), *words]
        )
        history = [SystemMessage("Patient X has a secret tumour.")]
        request = asked(prompt, documents, history=history)
        assert "secret" not in str(request)
        assert request.instructions == "Be brief."
        inputs = {"context": documents, "input": QUESTION, "history": history}
        message = (evidence_prompt(prompt) | chat).invoke(inputs)
        assert message.response_metadata["mrrag"]["left_out_turns"] == 1
