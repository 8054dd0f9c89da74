"""Text from outside in prompts: turn marks in every family's words, and forged markers.

What is right is the same prompt with harmless words: as many marks, control and image tokens, and
spans over the texts that were given. A document between its own markers is found, whatever stands
around it, and what was forged is nobody's.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mrrag_llamaindex.generation.checkpoints.families import CHATML, GEMMA, TEXT_ONLY, VICUNA
from mrrag_llamaindex.generation.checkpoints.profile import PromptTemplate
from mrrag_llamaindex.generation.prompt.builder import PromptBuilder
from mrrag_llamaindex.generation.prompt.marks import turn_marks
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.integration.tickets.markers import find_segments, find_tickets, mark, strip
from mrrag_llamaindex.integration.tickets.registry import TicketRegistry
from tests.campaign.tally import Part, WrongValueError
from tests.tiny.tokenizers import byte_pairs

LLAMA3 = PromptTemplate(
    opening="<|start_header_id|>user<|end_header_id|>\n\n<image>",
    closing="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    answer_opening="",
    turn_end="<|eot_id|>",
    turn_opening="<|start_header_id|>user<|end_header_id|>\n\n",
)
TEMPLATES = {
    "mistral": PromptTemplate(),
    "vicuna": VICUNA,
    "chatml": CHATML,
    "gemma": GEMMA,
    "text only": TEXT_ONLY,
    "llama 3": LLAMA3,
}
_IMAGE = "<image>" * 4
_FIELDS = ("question", "first", "second", "instructions", "asked", "answered", "before", "after")
_MARKS = ("<image>", *sorted(set().union(*map(turn_marks, TEMPLATES.values()))))
_UNSEEN = ("", "", "\u200b", "\ufeff", "\u00ad", "\u2060", " ", "\n", "\u200e")
_LETTERS = st.characters(exclude_categories=("Cs",))


@st.composite
def _attacks(draw: st.DrawFn) -> str:
    """Marks: whole, in pieces, in full width, with what is unseen between their letters."""
    pieces = []
    for _ in range(draw(st.integers(0, 4))):
        text = draw(st.sampled_from(_MARKS))
        how = draw(st.integers(0, 5))
        if how == 0:
            text = text[draw(st.integers(0, len(text) - 1)) :]
        elif how == 1:
            text = text[: draw(st.integers(1, len(text)))]
        elif how == 2:
            text = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
        elif how == 3:
            text = draw(st.sampled_from(_UNSEEN)).join(text)
        elif how == 4:
            place = draw(st.integers(0, len(text)))
            text = text[:place] + text + text[place:]
        pieces += [draw(st.text(_LETTERS, max_size=3)), text]
    return "".join((*pieces, draw(st.text(_LETTERS, max_size=5))))


@st.composite
def _markers(draw: st.DrawFn) -> dict[str, Any]:
    """What a host's prompt may hold between two genuine documents."""
    names = st.sampled_from(("OWN", "OTHER", "A" * 20, "=" * 20, "", "x" * 500, "[[mrrag:"))
    kinds = st.sampled_from(("b", "c", "e", "x", ""))
    numbers = st.sampled_from(("0", "1", "7", "-1", "", "9" * 6, "9" * 5000, "0.0", "1.9999", "٣"))
    forged = st.builds("[[mrrag:{}:{}{}]]".format, names, kinds, numbers)
    noise = st.lists(forged | st.text(_LETTERS, max_size=12), max_size=4).map("".join)
    return {
        "texts": [draw(st.lists(_WORDS, min_size=1, max_size=90).map(" ".join)) for _ in range(2)],
        "noise": [draw(noise) for _ in range(3)],
    }


_WORDS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.integers(0, 2)) == 0:
        return {"markers": draw(_markers())}
    return {
        "family": draw(st.sampled_from(sorted(TEMPLATES))),
        "special": draw(st.booleans()),
        "texts": {name: draw(_attacks()) for name in _FIELDS},
    }


@functools.cache
def _builder(family: str, special: bool) -> PromptBuilder:
    template = TEMPLATES[family]
    marks = sorted(turn_marks(template)) if special else []
    return PromptBuilder(byte_pairs(["<image>", *marks]), template, max_tokens=60_000)


def _built(family: str, special: bool, texts: dict[str, str]) -> Any:
    documents = [
        PromptDocument("a", f"No pleural effusion. {texts['first']}", 1.0),
        PromptDocument("b", f"The heart is of normal size. {texts['second']}", 0.5),
    ]
    request = PromptRequest(
        f"Is there a nodule? {texts['question']}",
        documents,
        instructions=f"Be brief. {texts['instructions']}",
        history=[(f"Effusion? {texts['asked']}", f"No. {texts['answered']}")],
        before_question=f"Asked: {texts['before']}",
        after_question=f"Now {texts['after']}",
    )
    return _builder(family, special).build(request, _IMAGE)


def check(value: dict[str, Any], folder: Path) -> None:
    if "markers" in value:
        _check_markers(**value["markers"])
        return
    family, special = value["family"], value["special"]
    dirty = _built(family, special, value["texts"])
    clean = _built(family, special, dict.fromkeys(_FIELDS, ""))
    marks = {"<image>", *turn_marks(TEMPLATES[family])}
    for name in marks:
        if dirty.text.count(name) != clean.text.count(name):
            raise WrongValueError(f"{family}: a text from outside writes {name!r}")
        if _plain(dirty.text).count(name) != _plain(clean.text).count(name):
            raise WrongValueError(f"{family}: {name!r} in disguise")
    tokenizer = _builder(family, special).tokenizer
    for name in tokenizer.all_special_tokens + (sorted(marks) if special else ["<image>"]):
        token = tokenizer.convert_tokens_to_ids(name)
        control = token != tokenizer.unk_token_id
        if control and dirty.input_ids.count(token) != clean.input_ids.count(token):
            raise WrongValueError(f"{family}: a text from outside makes the token {name!r}")
    if dirty.image_span != clean.image_span or dirty.lambdas != clean.lambdas:
        raise WrongValueError(f"{family}: the image or the scores have moved")
    ids = list(dirty.input_ids)
    spans = (*dirty.document_spans, dirty.question_span)
    for span, begin in zip(spans, ("No pleural effusion.", "The heart", "Is there"), strict=True):
        if not tokenizer.decode(ids[slice(*span)]).strip().startswith(begin):
            raise WrongValueError(f"{family}: a span does not begin with its text")
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        raise WrongValueError(f"{family}: spans overlap")


def _plain(text: str) -> str:
    """As a tokenizer may read it that knows no full width and drops what is unseen."""
    unseen = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))
    return unicodedata.normalize("NFKC", text).translate(unseen)


def _check_markers(texts: list[str], noise: list[str]) -> None:
    registry = TicketRegistry()
    documents = [PromptDocument(name, text) for name, text in zip("ab", texts, strict=True)]
    ticket = registry.issue("Is there a nodule?", documents, None)
    other = registry.issue("Another question", documents, None)
    strangers = TicketRegistry().issue("Of another process", documents, None)
    around = [piece.replace("OTHER", strangers.ticket_id) for piece in noise]
    # A replayed marker of one's own is taken out of a document before it is marked.
    own = [strip(text.replace("OWN", ticket.ticket_id)) for text in texts]
    marked = [mark(text, ticket.ticket_id, place) for place, text in enumerate(own)]
    prompt = f"{around[0]} {marked[0]} {around[1]} {marked[1]} {around[2]}"
    found = find_tickets(prompt, registry)
    if found != [ticket]:
        raise WrongValueError(f"{len(found)} tickets are found in a prompt of one")
    segments = find_segments(prompt, ticket)
    if [(segment.ordinal, segment.text) for segment in segments] != list(enumerate(texts)):
        raise WrongValueError("forged markers change a document")
    if re.search(r"\[\[mrrag:[A-Za-z0-9_=-]{20}:[bce]\d", strip(prompt)):
        raise WrongValueError("a marker is left for a reader")
    if other.calls or ticket.calls:
        raise WrongValueError("looking for a ticket uses it")


PART = Part("prompts", inputs(), check)
