"""Templates of an app's own, in any language, for every argument of the host that takes one."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import (
    ChatPromptTemplate,
    PromptTemplate,
    RichPromptTemplate,
    SelectorPromptTemplate,
)
from llama_index.core.prompts.utils import is_chat_model
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from pydantic import BaseModel

from mrrag_llamaindex import MRRAGLLaVA
from mrrag_llamaindex.errors import ModelError
from tests.integration.matrix.conftest import PATIENT, QUESTION

ANSWER = {
    "de": "Beurteile das Bild.\nBefunde ähnlicher Fälle:\n{context_str}\nFrage: {query_str}\nKurz:",
    "ja": "画像を見てください。\n類似症例:\n{context_str}\n質問: {query_str}\n答え:",
    "fr": "{context_str}\n---\nRéponds à « {query_str} » en un mot.",
    "question first": "Q: {query_str}\nLies:\n{context_str}\n",
}
REFINE = {
    "de": "Bisher: {existing_answer}\nWeitere Befunde:\n{context_msg}\nFrage: {query_str}\nNeu:",
    "ja": "これまで: {existing_answer}\n追加:\n{context_msg}\n質問: {query_str}\n",
    "fr": "{context_msg}\nAvant : {existing_answer}\nEncore : {query_str}",
    "question first": "Q: {query_str}\nBisher {existing_answer}\nMehr:\n{context_msg}\n",
}
OWN_WORDS = {"de": "Beurteile das Bild.", "ja": "画像を見てください", "fr": "en un mot"}

languages = pytest.mark.parametrize("language", ANSWER)


def as_prompt(text):
    return PromptTemplate(text)


def as_rich(text):
    return RichPromptTemplate(text.replace("{", "{{ ").replace("}", " }}"))


def as_chat(text):
    head, brace, tail = text.partition("{query_str}")
    messages = [
        ChatMessage(role=MessageRole.SYSTEM, content=head or "Siehe:"),
        ChatMessage(role=MessageRole.USER, content=brace + tail),
    ]
    return ChatPromptTemplate(messages)


def as_selector(text):
    unused = PromptTemplate("{context_str} never {query_str}")
    return SelectorPromptTemplate(unused, [(is_chat_model, as_prompt(text))])


CLASSES = {"prompt": as_prompt, "rich": as_rich, "chat": as_chat, "selector": as_selector}

ARGUMENTS = {
    "text_qa_template": (ResponseMode.COMPACT, ANSWER),
    "refine_template": (ResponseMode.REFINE, REFINE),
    "summary_template": (ResponseMode.TREE_SUMMARIZE, ANSWER),
    "text_qa_template, simple": (ResponseMode.SIMPLE_SUMMARIZE, ANSWER),
    "text_qa_template, accumulated": (ResponseMode.ACCUMULATE, ANSWER),
    "text_qa_template, packed": (ResponseMode.COMPACT_ACCUMULATE, ANSWER),
}
CONTENT = {
    "chat_content_qa_template": (ResponseMode.COMPACT, ANSWER),
    "chat_content_refine_template": (ResponseMode.REFINE, REFINE),
    "chat_summary_template": (ResponseMode.TREE_SUMMARIZE, ANSWER),
}


@pytest.mark.parametrize(
    ("kind", "language"),
    [
        pytest.param(
            kind, language, marks=() if kind == "prompt" or language == "ja" else pytest.mark.slow
        )
        for kind in CLASSES
        for language in ANSWER
    ],
)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_own_template(hospital, llm, checks, model, argument, kind, language):
    mode, texts = ARGUMENTS[argument]
    option = {argument.split(",")[0]: CLASSES[kind](texts[language])}
    engine = hospital.index.as_query_engine(llm, response_mode=mode, **option)
    answers = checks.answered(engine.query(checks.bundle()))
    everything = " ".join(
        f"{r.instructions} {r.before_question} {r.after_question}" for r in model.requests
    )
    if texts is ANSWER and language in OWN_WORDS:
        assert OWN_WORDS[language] in everything
    assert all(request.question == QUESTION for request in model.requests)
    assert "There is" not in everything
    if mode in (ResponseMode.COMPACT, ResponseMode.REFINE):
        assert answers[-1].document_ids == hospital.evidence(PATIENT, QUESTION)


@languages
@pytest.mark.parametrize("argument", CONTENT)
def test_own_template_of_messages(hospital, llm, checks, model, argument, language):
    """With ``multimodal=True`` the documents are messages, under ``context_messages``."""
    mode, texts = CONTENT[argument]
    text = texts[language].replace("context_str", "context_messages")
    text = text.replace("context_msg", "context_messages")
    loop = (
        "{% for message in context_messages %}{% for block in message.blocks %}"
        "{{ block.text }}\n\n{% endfor %}{% endfor %}"
    )
    rich = text.replace("{", "{{ ").replace("}", " }}").replace("{{ context_messages }}", loop)
    template = RichPromptTemplate(f'{{% chat role="user" %}}{rich}{{% endchat %}}')
    synthesizer = get_response_synthesizer(
        llm=llm, response_mode=mode, multimodal=True, **{argument: template}
    )
    engine = hospital.index.as_query_engine(response_synthesizer=synthesizer)
    checks.answered(engine.query(checks.bundle()))
    assert all(request.question == QUESTION for request in model.requests)


def test_renamed_variables(hospital, llm, checks, model):
    template = PromptTemplate(
        "Befunde:\n{befunde}\nFrage: {frage}\n",
        template_var_mappings={"context_str": "befunde", "query_str": "frage"},
    )
    engine = hospital.index.as_query_engine(llm, text_qa_template=template)
    checks.answered(engine.query(checks.bundle()))
    assert model.requests[0].question == QUESTION


def test_computed_variables(hospital, llm, checks, model):
    template = PromptTemplate(
        "Befunde:\n{context_str}\nFrage: {query_str}\n",
        function_mappings={"context_str": lambda **kwargs: kwargs["context_str"].strip()},
    )
    engine = hospital.index.as_query_engine(llm, text_qa_template=template)
    checks.answered(engine.query(checks.bundle()))
    assert model.requests[0].question == QUESTION


def test_context_that_a_function_rewrites_is_what_is_read(hospital, llm, checks, model):
    template = PromptTemplate(
        "Befunde:\n{context_str}\nFrage: {query_str}\n",
        function_mappings={
            "context_str": lambda **kwargs: kwargs["context_str"].replace("nodule", "mass")
        },
    )
    engine = hospital.index.as_query_engine(llm, text_qa_template=template)
    checks.answered(engine.query(checks.bundle()))
    texts = {document.text for request in model.requests for document in request.documents}
    assert texts == {"There is pleural effusion. No mass."}


def test_question_that_a_function_rewrites_is_what_is_asked(hospital, llm, checks, model):
    template = PromptTemplate(
        "{context_str}\n{query_str}",
        function_mappings={"query_str": lambda **kwargs: kwargs["query_str"] + " Yes or no?"},
    )
    engine = hospital.index.as_query_engine(llm, text_qa_template=template)
    checks.answered(engine.query(checks.bundle()))
    request = model.requests[0]
    asked = f"{request.before_question} {request.question} {request.after_question}"
    assert f"{QUESTION} Yes or no?" in " ".join(asked.split())


def test_partial_variables_and_updated_prompts(hospital, llm, checks, model):
    template = PromptTemplate("{tone}\n{context_str}\n{query_str}\n").partial_format(tone="Kurz!")
    engine = hospital.index.as_query_engine(llm)
    engine.update_prompts({"response_synthesizer:text_qa_template": template})
    checks.answered(engine.query(checks.bundle()))
    assert "Kurz!" in model.requests[0].before_question


def test_template_without_the_question_still_asks_it(hospital, llm, checks, model):
    engine = hospital.index.as_query_engine(
        llm, text_qa_template=PromptTemplate("Fasse zusammen:\n{context_str}\n")
    )
    checks.answered(engine.query(checks.bundle()))
    assert model.requests[0].question == QUESTION


def test_template_without_the_context_still_reads_it(hospital, llm, checks):
    engine = hospital.index.as_query_engine(
        llm, text_qa_template=PromptTemplate("Antworte: {query_str}\n")
    )
    checks.answered(engine.query(checks.bundle()))


def test_system_prompt_of_the_llm(hospital, llm, checks):
    spoken = MRRAGLLaVA(model="phantom", engine=llm.engine, system_prompt="Antworte auf Deutsch.")
    engine = hospital.index.as_query_engine(spoken)
    checks.answered(engine.query(checks.bundle()))
    assert "Antworte auf Deutsch." in checks.model.requests[0].instructions


def test_wrapper_of_the_question_is_refused(llm):
    with pytest.raises(ModelError, match="query_wrapper_prompt"):
        MRRAGLLaVA(model="phantom", engine=llm.engine, query_wrapper_prompt="<s>{query_str}</s>")


def test_citation_templates(hospital, llm, checks):
    engine = hospital.index.as_citation_engine(
        llm,
        citation_qa_template=PromptTemplate("Quellen:\n{context_str}\nFrage: {query_str}\n"),
        citation_refine_template=PromptTemplate(REFINE["de"]),
        response_mode=ResponseMode.REFINE,
    )
    checks.answered(engine.query(checks.bundle()))


class Verdict(BaseModel):
    """A yes or no."""

    present: bool
    p_yes: float
    document_ids: list[str]


@pytest.mark.parametrize("language", ["de", "ja"])
@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.REFINE])
def test_own_template_with_a_schema(hospital, llm, checks, mode, language):
    engine = hospital.index.as_query_engine(
        llm,
        response_mode=mode,
        output_cls=Verdict,
        text_qa_template=PromptTemplate(ANSWER[language]),
        refine_template=PromptTemplate(REFINE[language]),
    )
    response = engine.query(checks.bundle())
    checks.answered(response)
    assert response.response.document_ids == list(hospital.evidence(PATIENT, QUESTION))
