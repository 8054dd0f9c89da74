"""What is said of a study: the table in Markdown, and the sentences below it."""

from __future__ import annotations

from mrrag_llamaindex.evaluation.markdown import markdown_table
from mrrag_llamaindex.evaluation.votes.study import GATED, Share, VoteDifference, VoteStudy


def cell(share: Share | None) -> str:
    """Return a value with its interval, e.g. ``.641 [.563, .718]``."""
    if share is None:
        return "-"
    ends = "" if share.ci is None else f" [{_short(share.ci[0])}, {_short(share.ci[1])}]"
    return _short(share.value) + ends


def markdown(study: VoteStudy) -> str:
    """Return the table."""
    head = ("vote by", "training, groups left out", "closed", "open, exact", "open, F1")
    lines = [("always the same answer", "", _short(study.majority), "", "")]
    for row in study.rows:
        values = (cell(row.closed), cell(row.exact), cell(row.f1))
        lines.append((row.name.replace("_", "-"), _short(row.training), *values))
    return markdown_table(head, lines, ("---", *["---:"] * 4))


def lines(study: VoteStudy) -> list[str]:
    """Return what stands below the table: the differences, and what was chosen."""
    sentences = [
        f"test: {study.closed} closed questions about {study.images} images, {study.opened} open "
        "ones; no question is answered by pairs of its own image"
    ]
    sentences += [difference_line(item) for item in study.differences]
    for row in study.rows:
        if row.name == GATED:
            continue
        weights = ", ".join(
            f"{name.replace('_', '-')} {value:g}"
            for name, value in zip(study.terms, row.setting.weights, strict=True)
            if value
        )
        sentences.append(
            f"{row.name.replace('_', '-')}: {row.setting.k} pairs, temperature "
            f"{row.setting.temperature:g}, weights {weights}"
        )
    if not study.gate_steps:
        sentences.append("gated: no step helped on training questions; it is the same as learned")
    return sentences


def difference_line(item: VoteDifference) -> str:
    """Say one difference, and whether it is more than noise."""
    name, minus = (text.replace("_", "-") for text in (item.name, item.minus))
    text = f"{name} minus {minus}: {item.value:+.3f}"
    if item.ci is None:
        return text
    low, high = item.ci
    verdict = "" if low > 0 or high < 0 else ": no more than noise"
    return f"{text} [{low:+.3f}, {high:+.3f}]{verdict}"


def _short(value: float) -> str:
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text
