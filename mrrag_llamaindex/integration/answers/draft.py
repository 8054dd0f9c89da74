"""Draft a report from an image and similar cases, and say what each sentence rests on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.generation.influence.hiding import require_explainable
from mrrag_llamaindex.generation.influence.sentences import sentence_effects
from mrrag_llamaindex.integration.answers.again import request_of
from mrrag_llamaindex.integration.answers.ask import ask
from mrrag_llamaindex.integration.answers.report_draft import DraftSentence, ReportDraft
from mrrag_llamaindex.integration.answers.sentences import sentence_spans
from mrrag_llamaindex.integration.inputs.images import QuestionImages, read_image

if TYPE_CHECKING:
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA


def draft_report(
    index: MRRAGIndex,
    llm: MRRAGLLaVA,
    image: QuestionImages,
    *,
    prompt: str = defaults.DRAFT_PROMPT,
    threshold: float = defaults.DRAFT_EFFECT,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> ReportDraft:
    """Draft the report of a study; a radiologist has to check it.

    The report is an answer like any other: retrieved cases, steering, one LLM call. Then each of
    its sentences is read again without each case, without all of them, and without the image, see
    `generation.influence.sentences`: cases that change it by `threshold` or more are named behind
    it, and a sentence that nothing moves is marked. That says what the words rest on, not whether
    they are true.

    Parameters
    ----------
    index : MRRAGIndex
    llm : MRRAGLLaVA
        With a model that runs here and can be explained; steered by its own policy
        (``policy=IFA(every_step=True)`` steers the rows of the report, too).
    image : path, bytes, PIL.Image.Image, QueryImage, or a list of these: one study
    prompt : str
        What the model is asked.
    threshold : float
        Nats per token, above 0.
    say : callable, optional
        Told what is being done.
    **options
        Those of `MRRAGRetriever`.

    Raises
    ------
    InputError
        If the threshold is no positive number, or the report has no sentence.
    NoRelevantCase
        With ``abstain=True``, where no case is probable enough.
    MRRAGError
        If anything else was wrong.
    """
    if not (math.isfinite(threshold) and threshold > 0):
        raise InputError(f"threshold is {threshold!r}; it must be a number of nats above 0")
    require_explainable(llm.engine)
    study = read_image(image)
    assert study is not None
    result = ask(index, llm, study, prompt, say=say, **options)
    answer = result.answer
    spans = sentence_spans(answer.text)
    if not spans:
        raise InputError("the model wrote no sentence: name another model, or another prompt")
    if say is not None:
        say(f"{len(spans)} sentences, each read again without each case and the image")
    started = time.perf_counter()
    request = request_of(prompt, result.source_nodes)
    effects = sentence_effects(llm.engine, request, study.pictures, answer.text, spans, llm.policy)
    if set(effects[0].documents) != set(answer.document_ids):
        raise EvidenceError(
            "the report was written from other cases than those that it could be read again with; "
            "draft with the index's own engine"
        )
    sentences = [
        DraftSentence.of(answer.text[start:stop], found, threshold)
        for (start, stop), found in zip(spans, effects, strict=True)
    ]
    told = ("sources", "dropped", "left_out", "image_read", "steering", "unknown_words")
    facts = result.as_dict()
    return ReportDraft(
        prompt=prompt,
        report=answer.text,
        sentences=sentences,
        threshold=threshold,
        cut_off=answer.cut_off,
        model=llm.metadata.model_name,
        seconds={**result.seconds, "effects": time.perf_counter() - started},
        **{name: facts[name] for name in told},
    )
