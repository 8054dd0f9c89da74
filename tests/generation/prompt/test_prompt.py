"""Spans point at what they name, documents leave lowest first, and data stays data."""

from __future__ import annotations

import itertools

import pytest

from mrrag_llamaindex.errors import PromptError
from mrrag_llamaindex.generation.checkpoints.profile import PromptTemplate
from mrrag_llamaindex.generation.prompt.builder import PromptBuilder
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest

QUESTION = "Is there a nodule?"
IMAGE = "<image>" * 9
REPORTS = ("No pleural effusion.", "The heart is of normal size.", "No nodule.")


def documents(*scores: float | None) -> tuple[PromptDocument, ...]:
    return tuple(
        PromptDocument(f"d{number}", REPORTS[number % 3], score)
        for number, score in enumerate(scores)
    )


@pytest.fixture
def builder(bpe) -> PromptBuilder:
    return PromptBuilder(bpe, PromptTemplate(), max_tokens=900)


def decoded(builder: PromptBuilder, ids, span) -> str:
    return builder.tokenizer.decode(list(ids)[span[0] : span[1]]).strip()


def test_every_span_decodes_to_the_text_that_it_names(builder):
    prompt = builder.build(PromptRequest(QUESTION, documents(0.9, 0.5, 0.1)))
    assert decoded(builder, prompt.input_ids, prompt.question_span) == QUESTION
    for document, span in zip(prompt.documents, prompt.document_spans, strict=True):
        assert decoded(builder, prompt.input_ids, span) == document.text


def test_order_is_image_documents_question(builder):
    prompt = builder.build(PromptRequest(QUESTION, documents(0.9, 0.5)), IMAGE)
    spans = [prompt.image_span, *prompt.document_spans, prompt.question_span]
    assert spans == sorted(spans)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))


def test_image_takes_exactly_its_tokens(builder):
    prompt = builder.build(PromptRequest(QUESTION), IMAGE)
    image_id = builder.tokenizer.convert_tokens_to_ids("<image>")
    assert prompt.input_ids.count(image_id) == 9
    start, stop = prompt.image_span
    assert set(prompt.input_ids[start:stop]) == {image_id}


def test_request_without_image_has_no_image_token(builder):
    prompt = builder.build(PromptRequest(QUESTION))
    assert prompt.image_span is None
    assert builder.tokenizer.convert_tokens_to_ids("<image>") not in prompt.input_ids


def test_sentence_begins_with_the_mistral_turn(builder):
    text = builder.build(PromptRequest(QUESTION), IMAGE).text
    assert text.startswith("[INST] <image>")
    assert text.endswith(f"Question: {QUESTION} [/INST]")


def test_too_many_documents_leave_lowest_score_first_and_are_named(bpe):
    builder = PromptBuilder(bpe, PromptTemplate(), max_tokens=900, max_documents=2)
    prompt = builder.build(PromptRequest(QUESTION, documents(0.2, 0.9, None, 0.5)))
    assert [document.document_id for document in prompt.documents] == ["d1", "d3"]
    assert [document.document_id for document in prompt.dropped] == ["d2", "d0"]


def test_lambda_is_min_max_over_the_documents_that_are_read(bpe):
    builder = PromptBuilder(bpe, PromptTemplate(), max_tokens=900, max_documents=3)
    empty = PromptDocument("empty", " ", 9.0)
    offered = (*documents(0.2, 0.9, 0.4, 0.5), empty)
    prompt = builder.build(PromptRequest(QUESTION, offered))
    assert [document.document_id for document in prompt.documents] == ["d1", "d2", "d3"]
    assert prompt.lambdas == pytest.approx((1.0, 0.0, 0.2))


def test_too_long_prompt_drops_documents_and_never_cuts_the_question(bpe):
    full = PromptBuilder(bpe, PromptTemplate(), max_tokens=900)
    request = PromptRequest(QUESTION, documents(0.2, 0.9, 0.5))
    length = len(full.build(request).input_ids)
    tight = PromptBuilder(bpe, PromptTemplate(), max_tokens=length - 1)
    prompt = tight.build(request)
    assert [document.document_id for document in prompt.dropped] == ["d0"]
    assert decoded(tight, prompt.input_ids, prompt.question_span) == QUESTION


def test_no_document_that_fits_is_an_error_and_not_an_answer_without_evidence(builder):
    huge = PromptDocument("huge", "No nodule. " * 9000, 0.9)
    with pytest.raises(PromptError, match="'huge'"):
        builder.build(PromptRequest(QUESTION, (huge,)))


def test_empty_document_is_dropped_and_named(builder):
    empty = PromptDocument("empty", "  \n", 0.9)
    prompt = builder.build(PromptRequest(QUESTION, (empty, *documents(0.1))))
    assert [document.document_id for document in prompt.dropped] == ["empty"]


@pytest.mark.parametrize(
    ("question", "said"), [("  ", "question is empty"), ("x " * 30_000, "60,000 characters")]
)
def test_empty_and_endless_questions_are_refused(builder, question, said):
    with pytest.raises(PromptError, match=said):
        builder.build(PromptRequest(question, documents(0.1)))


@pytest.mark.parametrize("field", ["question", "instructions", "before_question", "history"])
def test_halves_of_characters_are_refused_wherever_they_stand(builder, field):
    texts = {"question": QUESTION, field: "a\ud800"}
    if field == "history":
        texts[field] = [("a\udfff", "yes")]
    with pytest.raises(PromptError, match="not valid Unicode"):
        builder.build(PromptRequest(**texts))


def test_question_that_does_not_fit_is_refused(builder):
    with pytest.raises(PromptError, match="without any document"):
        builder.build(PromptRequest("why " * 3000))


@pytest.mark.parametrize("token", ["<image>", "</s>", "<pad>"])
def test_control_tokens_in_a_report_are_text(builder, token):
    clean = builder.build(PromptRequest(QUESTION, (PromptDocument("d", "No nodule."),)), IMAGE)
    report = PromptDocument("d", f"No {token} nodule.")
    dirty = builder.build(PromptRequest(QUESTION, (report,)), IMAGE)
    control = builder.tokenizer.convert_tokens_to_ids(token)
    assert dirty.input_ids.count(control) == clean.input_ids.count(control)
    assert "nodule" in decoded(builder, dirty.input_ids, dirty.document_spans[0])


def test_application_text_and_history_stand_between_documents_and_question(builder):
    request = PromptRequest(
        QUESTION,
        documents(0.9),
        instructions="Be brief.",
        before_question="The user asks: ",
        history=[("Is there an effusion?", "No.")],
    )
    prompt = builder.build(request)
    text = prompt.text
    parts = [
        "Be brief.",
        REPORTS[0],
        "Is there an effusion?",
        "No.</s>",
        "The user asks:",
        QUESTION,
    ]
    places = [text.rindex(part) for part in parts]
    assert places == sorted(places)
    assert decoded(builder, prompt.input_ids, prompt.question_span) == QUESTION


def test_slow_tokenizer_is_refused_because_it_gives_no_offsets():
    class Slow:
        is_fast = False

    with pytest.raises(PromptError, match="fast version"):
        PromptBuilder(Slow(), PromptTemplate(), max_tokens=10)


def test_wrong_image_token_is_noticed(bpe):
    builder = PromptBuilder(bpe, PromptTemplate(), image_token="<s>", max_tokens=99)
    with pytest.raises(PromptError, match="image tokens"):
        builder.build(PromptRequest(QUESTION), "<s><s>")


@pytest.mark.parametrize("field", ["opening", "document", "question"])
def test_template_without_its_placeholder_is_refused(field):
    with pytest.raises(ValueError, match=field):
        PromptTemplate(**{field: "nothing"})
