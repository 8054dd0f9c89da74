"""What the templates show: bars, marked sentences, and why an answer is what it is, in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.files.digests import text_digest
from mrrag_llamaindex.generation.attention import LayerShares
from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.plots.words import signed_points

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.attention import AttentionShares
    from mrrag_llamaindex.integration.answers.ask import AskResult
    from mrrag_llamaindex.serving.page.sessions import Turn

LABELS: Mapping[str, str] = {
    "image_text": "film ↔ report",
    "image_image": "film ↔ film",
    "text_text": "question ↔ report",
    "text_image": "question ↔ film",
    "raw_image": "film ↔ film, raw",
    "raw_text": "question ↔ report, raw",
}
"""The similarity terms, in words: of what is asked to what is stored."""

_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\s|$)|(?:[.!?](?=\S)[^.!?\n]*)+[.!?]*|\n|$)\s*")
_WORD = re.compile(r"\w+|\W+")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """a an and any are be can do does evidence film for has have here image in is it of on or
        patient see show shows sign signs study that the there this to was what which with you""",
    )
)
"""Words of questions that say nothing of what is asked."""


@dataclass(frozen=True)
class Bar:
    """A bar in percent of its axis.

    Attributes
    ----------
    x, width : float
    negative : bool
    """

    x: float
    width: float
    negative: bool = False

    @classmethod
    def from_zero(cls, value: float, low: float, high: float) -> Bar:
        """Return a bar from 0 to ``value`` on an axis from ``low`` to ``high``."""
        span = max(high - low, 1e-12)
        start, stop = sorted((0.0, value))
        return cls(100 * (start - low) / span, 100 * (stop - start) / span, value < 0)


def sentences(report: str, question: str) -> list[list[tuple[str, bool]]]:
    """Cut a report into sentences, and each into words with whether the question names them.

    Examples
    --------
    >>> sentences("No effusion. Clear.", "Is there an effusion?")
    [[('No', False), (' ', False), ('effusion', True), ('. ', False)], [('Clear', False), ('.', False)]]
    """  # noqa: E501
    asked = {word.lower() for word in re.findall(r"\w+", question)} - _COMMON
    return [
        [(word, word.lower() in asked) for word in _WORD.findall(sentence)]
        for sentence in _SENTENCE.findall(report)
        if sentence.strip()
    ]


def cases(
    rows: Sequence[Mapping[str, Any]], question: str, hidden: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return what the cards show of retrieved documents, best first.

    Parameters
    ----------
    rows : sequence of mapping
        As `integration.answers.retrieval.retrieve` returns them; with ``influence`` and ``read``
        once they are known.
    question : str
    hidden : collection of str
        Ids of documents that the person has taken away.
    """
    parts = [
        {name: row["weights"].get(name, 0.0) * row[name] for name in ALL_TERMS if name in row}
        for row in rows
    ]
    ends = [value for part in parts for value in part.values()]
    low, high = min((0.0, *ends)), max((0.0, *ends, 1e-9))
    points = [abs(row["influence"]["points"]) for row in rows if row.get("influence")]
    most = max((1.0, *points))
    shown = []
    for number, (row, part) in enumerate(zip(rows, parts, strict=True), start=1):
        influence = row.get("influence")
        shown.append(
            {
                **row,
                "number": number,
                "element": f"picture-{text_digest(row['pair_id'], 16)}",
                "hidden": row["pair_id"] in hidden,
                "influence": influence,
                "sentences": sentences(row["report"], question),
                "terms": [
                    {
                        "label": LABELS[name],
                        "cosine": row[name],
                        "weight": row["weights"].get(name, 0.0),
                        "part": value,
                        "bar": Bar.from_zero(value, low, high),
                    }
                    for name, value in part.items()
                    if value or row["weights"].get(name)
                ],
                "lambda_bar": Bar(0, 100 * row["lambda"]),
                "points": influence and signed_points(influence["points"]),
                "zero": Bar.from_zero(0, low, high).x,
                "influence_bar": influence and Bar.from_zero(influence["points"], -most, most),
            }
        )
    return shown


def side(turn: Turn, name: str) -> dict[str, Any]:
    """Return what is shown of one side of a turn, ``"steered"`` or ``"plain"``."""
    result, look = turn.results.get(name), turn.looks.get(name)
    known = result.answer if result is not None else look
    return {
        "name": name,
        "text": result.text if result is not None else "",
        "done": result is not None,
        "p_yes": None if known is None else known.p_yes,
        "p_no": None if known is None else known.p_no,
    }


def verdict(p_yes: float, p_no: float) -> tuple[str, float, float] | None:
    """Return "yes" or "no", its probability and the other's; None for another kind of answer."""
    if p_yes + p_no < 0.5:
        return None
    return ("yes", p_yes, p_no) if p_yes >= p_no else ("no", p_no, p_yes)


def _said(result: AskResult) -> tuple[str, float, float] | None:
    """Return the `verdict` on an answer; None where its words are others than yes or no."""
    found = verdict(result.answer.p_yes, result.answer.p_no)
    begun = re.match(r"\W*(\w*)", result.text)
    return found if found is not None and begun and begun[1].lower() == found[0] else None


def why(turn: Turn) -> list[str]:
    """Say in a few sentences why the answer is what it is; only what was measured."""
    result = turn.results["steered"]
    answer = result.answer
    found = _said(result)
    said: list[str] = []
    if found is not None:
        word, p, other = found
        opposite = "no" if word == "yes" else "yes"
        sure = "clearly" if p - other > 0.5 else "by a small margin" if p - other < 0.15 else ""
        said.append(
            f"The model says {word}{f', {sure}' if sure else ''}: p({word}) is {p:.2f}, "
            f"p({opposite}) {other:.2f}."
        )
    said.extend(_because(turn))
    plain = turn.results.get("plain")
    if not answer.steering.applied:
        said.append(f"Attention was not steered: {answer.steering.reason}.")
    elif plain is not None and found is not None:
        before = plain.answer.p_yes if found[0] == "yes" else plain.answer.p_no
        other_found = _said(plain)
        turned = other_found is None or other_found[0] != found[0]
        change = f"p({found[0]}) was {before:.2f} with plain attention, {found[1]:.2f} steered"
        said.append(
            f"Steering towards the cases with high scores turned the answer: {change}."
            if turned
            else f"Without steering the answer is the same: {change}."
        )
    if answer.unknown_tokens:
        said.append(
            f"{answer.unknown_tokens} words are unknown to this model: the answer is worth little."
        )
    if not answer.image_read:
        said.append(f"This model did not read the film{_s(turn)}, only the reports.")
    return said


def _s(turn: Turn) -> str:
    return "s" if len(turn.image.views) > 1 else ""


def _because(turn: Turn) -> Iterator[str]:
    influences = turn.results["steered"].answer.influence
    if not influences:
        return
    numbers = {item.node.node_id: place for place, item in enumerate(turn.nodes, start=1)}
    known = [(numbers[name], moved) for name, moved in influences.items() if name in numbers]
    ranked = sorted(known, key=lambda item: -item[1].points)
    best, moved = ranked[0]
    if moved.points < 1:
        yield (
            "Leaving out any one case would not lower its probability by a point: it rests on "
            f"several of them together, or on the film{_s(turn)}."
        )
    else:
        end = ", and the answer would be another" if moved.flips else ""
        yield (
            f"It rests most on case {best}{_words_of(turn, best)}: without it the answer's "
            f"probability would be {moved.points:.0f} points lower{end}."
        )
    worst, against = ranked[-1]
    if against.points <= -1:
        yield (
            f"Case {worst}{_words_of(turn, worst)} speaks most against it "
            f"({against.points:.0f} points)."
        )


def _words_of(turn: Turn, number: int) -> str:
    """Quote what a case says of the question, if one of its sentences names a word of it."""
    cut = sentences(turn.nodes[number - 1].node.get_content(), turn.question)
    named = [(sum(asked for _, asked in words), words) for words in cut]
    most, words = max(named, key=lambda item: item[0], default=(0, []))
    text = "".join(word for word, _ in words).strip()
    if not most or len(text) > 120:
        return ""
    return f" (“{text}”)"


def strips(look: AttentionShares | None, rows: str) -> list[dict[str, Any]]:
    """Return the strips of attention: parts with place, width and label.

    One for each layer, and where there are several, that of their mean before them.
    """
    if look is None:
        return []
    layers: Mapping[int, LayerShares] = getattr(look, rows)
    found = [
        {"name": f"layer {layer}", "parts": list(_parts(shares))}
        for layer, shares in layers.items()
    ]
    if len(found) > 1:
        found.insert(0, {"name": "mean", "parts": list(_parts(_mean(list(layers.values()))))})
    return found


def _mean(layers: Sequence[LayerShares]) -> LayerShares:
    """Return the mean of some layers' shares."""
    count = len(layers)
    names = layers[0].documents
    return LayerShares(
        {name: sum(layer.documents[name] for layer in layers) / count for name in names},
        sum(layer.image for layer in layers) / count,
        sum(layer.question for layer in layers) / count,
        sum(layer.rest for layer in layers) / count,
    )


def _parts(shares: LayerShares) -> Iterator[dict[str, Any]]:
    values = [
        *((f"case {n}", str(n), share) for n, share in enumerate(shares.documents.values(), 1)),
        ("film", "film", shares.image),
        ("question", "question", shares.question),
        ("other text", "other", shares.rest),
    ]
    kinds = ["document", "document-2"] * len(values)
    left = 0.0
    for place, (name, label, share) in enumerate(values):
        kind = {"film": "image", "question": "question", "other": "rest"}.get(label, kinds[place])
        yield {
            "name": name,
            "kind": kind,
            "percent": 100 * share,
            "x": 100 * left,
            "width": 100 * share,
            "middle": 100 * (left + share / 2),
            "label": label if share > 0.012 * (1 + len(label)) else "",
        }
        left += share
