"""``ask --by vote``: which options it takes, and what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.boundary import plain
from mrrag_llamaindex.commands.options import NOTICE
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.score import ALL_TERMS

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.votes.demo import RealDemo
    from mrrag_llamaindex.integration.answers.vote import VoteResult

_SHARES_SHOWN = 5
_CASES_SHOWN = 8
_OWN_SHOWN = 3


def check_options(by: str, of_model: dict[str, Any], of_vote: dict[str, Any]) -> None:
    """Raise `InputError` if an option is given that the chosen way of answering does not read."""
    refused, why = (
        (of_model, "a vote asks no model") if by == "vote" else (of_vote, "it belongs to --by vote")
    )
    for name, value in refused.items():
        if value not in (None, False):
            raise InputError(f"{name} cannot be given here: {why}")


def print_real_demo(demo: RealDemo, as_json: bool) -> None:
    """Print the question with its truth, the vote, and where things are."""
    from mrrag_llamaindex.evaluation.votes.demo import ORIGIN, VECTORS_NOTE

    if as_json:
        console.print_json(demo.as_dict())
        return
    screen = console.screen()
    screen.print(Text(demo.result.question, "bold"), end="")
    screen.print(f"  ({ORIGIN}; the truth is {demo.truth})", soft_wrap=True)
    print_vote(demo.result, most=_CASES_SHOWN)
    screen.print(f"{'picture':<13}{demo.picture or demo.no_picture}", soft_wrap=True)
    screen.print(
        f"{'store':<13}{demo.store} ({demo.pairs} pairs of {demo.images} images)", soft_wrap=True
    )
    screen.print(VECTORS_NOTE, soft_wrap=True)


def print_vote(result: VoteResult, *, as_json: bool = False, most: int | None = None) -> None:
    """Print what was voted, and every pair that voted, or the first ``most`` of them."""
    if as_json:
        console.print_json(result.as_dict())
        return
    screen = console.screen()
    shares = [f"{name} {share:.3f}" for name, share in result.ballot.shares.items()]
    more = len(shares) - _SHARES_SHOWN
    shown = "   ".join(shares[:_SHARES_SHOWN]) + (f"   and {more} more" if more > 0 else "")
    screen.print(f"{'answer':<13}{result.text}", soft_wrap=True)
    screen.print(f"{'shares':<13}{shown}", soft_wrap=True)
    voted = console.count(len(result.source_nodes), "pair")
    screen.print(
        f"{'vote':<13}of {voted} among {result.searched} found, by softmax(score / "
        f"{result.temperature:g}); no model was asked",
        soft_wrap=True,
    )
    if result.own:
        named = ", ".join(map(plain, result.own[:_OWN_SHOWN]))
        named += ", ..." if len(result.own) > _OWN_SHOWN else ""
        screen.print(
            Text(
                f"{'left out':<13}this image is stored as {named}: neither that nor what "
                "else is of its study or patient votes"
            ),
            soft_wrap=True,
        )
    table = console.plain_table(2 if screen.width >= 100 else 1)
    table.add_column("source", overflow="fold")
    sources = result.sources()
    terms = [name for name in ALL_TERMS if any(row.get(name) for row in sources)]
    for name in ("weight", "score", *terms):
        table.add_column(name.replace("_", "-"), justify="right")
    table.add_column("answer", overflow="fold")
    for row in sources[:most]:
        numbers = [f"{row[name]:.3f}" for name in ("weight", "score", *terms)]
        table.add_row(plain(row["pair_id"]), *numbers, plain(row["answer"]))
    screen.print(table)
    screen.print(f"\n{NOTICE}")
