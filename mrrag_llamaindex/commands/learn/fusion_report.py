"""How ``mrrag train-fusion`` prints what it learned."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.learning.fusion.comparison import FusionComparison, PooledComparison
from mrrag_llamaindex.learning.fusion.recall_table import RecallTable
from mrrag_llamaindex.mcr.weights import HEAD_TERMS, FusionWeights


def print_comparison(comparison: FusionComparison) -> None:
    """Print the learned weights, recall@1 with intervals, and which differences are noise."""
    weights, table = comparison.learned.weights, comparison.table
    print(
        f"learned weights: {_named(weights, comparison.terms)} "
        f"(temperature {comparison.learned.temperature:.3f})"
    )
    if comparison.four_terms is not None:
        print(f"four terms: {_named(comparison.four_terms.weights, HEAD_TERMS)}")
    print(
        f"recall@1 of a pair that supports a right answer, on {table.n} questions of other "
        "patients (95% interval, by patient):"
    )
    for name in table.recall:
        print(f"  {name:<12} {_cell(table, name)}")
    for line in _verdicts(table):
        print(f"  {line}")


def _named(weights: FusionWeights, terms: tuple[str, ...]) -> str:
    values = zip(terms, weights.as_array(terms), strict=True)
    return ", ".join(f"{name.replace('_', '-')} {value:.3f}" for name, value in values)


def pooled_dict(pooled: dict[str, PooledComparison], seed: int, seeds: int) -> dict[str, Any]:
    """Return the tables of all regimes; the first one's keys stand at the top as well."""
    first = next(iter(pooled.values()))
    return {
        **first.as_dict(),
        "seeds": list(range(seed, seed + seeds)),
        "regimes": {name: one.as_dict() for name, one in pooled.items()},
    }


def print_pooled(pooled: dict[str, PooledComparison], seeds: int) -> None:
    """Print one table for all regimes: recall@1, and the mean learned weights."""
    screen = Console(highlight=False, force_jupyter=False)
    counts = ", ".join(f"{name} {one.table.n}" for name, one in pooled.items())
    screen.print(
        f"recall@1 of a pair that supports the answer, {seeds} seeds, other patients than those "
        f"learned on, 95% by patient; questions: {counts}",
        markup=False,
    )
    first = next(iter(pooled.values()))

    def table_of(what: str) -> Table:
        table = console.plain_table()
        table.add_column(what)
        for name in pooled:
            table.add_column(name, no_wrap=True)
        return table

    table = table_of("weights")
    for row in first.table.recall:
        table.add_row(row, *(_cell(one.table, row) for one in pooled.values()))
    screen.print(table)
    screen.print(
        "learned weights, mean ± standard deviation over seeds, and what share of the differences "
        "between candidates each term makes",
        markup=False,
    )
    table = table_of("term")
    for term in first.weights:
        cells = [
            f"{one.weights[term]:.2f} ± {one.spread[term]:.2f} ({one.shares[term]:.0%})"
            for one in pooled.values()
        ]
        table.add_row(term, *cells)
    screen.print(table)
    for name, one in pooled.items():
        screen.print(f"{name}:", markup=False)
        for line in [*_apart(one.table), *_verdicts(one.table)]:
            screen.print(f"  {line}", markup=False)


def _verdicts(table: RecallTable) -> list[str]:
    """Say for each paired difference whether it is more than noise."""
    lines = []
    for name, (low, high) in table.ci.items():
        one, minus, other = name.partition("-")
        if minus:
            lines.append(f"{one} minus {other}: [{low:+.3f}, {high:+.3f}], {table.verdict(name)}")
    return lines


def _apart(table: RecallTable) -> list[str]:
    """Say whether the intervals of learned weights and of what they are compared with overlap."""
    others = {
        f"the best single term, {table.best_single}": table.best_single,
        "equal weights": "equal",
    }
    lines = []
    for what, name in others.items():
        overlap = "do not overlap" if table.apart("learned", name) else "overlap"
        lines.append(f"learned and {what}: the intervals {overlap}")
    return lines


def _cell(table: RecallTable, name: str) -> str:
    low, high = table.ci[name]
    return f"{table.recall[name]:.3f} [{low:.3f}, {high:.3f}]"
