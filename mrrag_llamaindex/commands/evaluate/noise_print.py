"""What ``mrrag noise`` prints for people."""

from __future__ import annotations

from typing import Any

from mrrag_llamaindex.commands.boundary import plain
from mrrag_llamaindex.evaluation.noise.report import NoiseReport

_LISTED = 20
"""Problems named one by one; a real data set can have thousands, and --json has them all."""


def print_noise(report: NoiseReport) -> None:
    """Print points, what is lost and won back, settings, weights, and what was left out."""
    result, about = report.result, report.about
    what = f"questions of {about['data']}" if "data" in about else "synthetic questions"
    print(
        f"{len(result.owners)} {what} (seed {result.seed}), {result.documents} "
        "documents each in shuffled places; accuracy with 95% interval by patient, and the share "
        f"of document attention on irrelevant documents (question rows, layers "
        f"{list(result.layers)}, mean over heads)"
    )
    for note in about.get("notes", ()):
        print(note)
    _print_points(report)
    print()
    _print_losses(report)
    _print_settings(report)
    _print_weights(report.fusion)
    _print_problems(about)


def _print_points(report: NoiseReport) -> None:
    points = report.points()
    for adversarial in report.kinds():
        print(f"\n{'contradicting' if adversarial else 'irrelevant'} documents")
        print(f"  {'policy':<10} {'scores':<7} {'noise':>5}  {'accuracy':<22} attention")
        for point in points:
            if point["adversarial"] == adversarial:
                share = point["noise_attention"]
                print(
                    f"  {point['policy']:<10} {point['scores']:<7} {point['noise']:>5.2f}  "
                    f"{point['accuracy']:.3f} {_interval(point['ci']):<16} "
                    f"{'-' if share is None else format(share, '.3f')}"
                )


def _print_losses(report: NoiseReport) -> None:
    recovered = report.recovered()
    for lost in report.losses():
        what = "contradicting" if lost["adversarial"] else "irrelevant"
        rows = [row for row in recovered if row["adversarial"] == lost["adversarial"]]
        print(
            f"plain RAG loses {100 * lost['loss']:.1f} points "
            f"{_interval(lost['ci'], 100, 1)} when half of the documents are {what}"
            + ("; won back:" if rows else "")
        )
        for row in rows:
            share = row["recovered"]
            won = "undefined" if share is None else f"{100 * share:.0f}%"
            print(
                f"  {row['policy']:<10} {row['scores']:<7} {won:>6} {_interval(row['ci'], 100, 0)}"
            )


def _print_settings(report: NoiseReport) -> None:
    rows = report.settings()
    if not rows:
        return
    if rows[0]["accuracy"] is None:
        print(f"\n{report.validation['note']}:")
        for row in rows:
            print(
                f"  {row['policy']:<10} {row['scores']:<7} {row['value']:g}, layers {row['layers']}"
            )
        return
    print(
        f"\nsettings chosen on {report.validation['n']} validation questions (seed "
        f"{report.validation['seed']}) at half noise:"
    )
    for row in rows:
        print(
            f"  {row['policy']:<10} {row['scores']:<7} {row['value']:g}, layers {row['layers']}: "
            f"{row['accuracy']:.3f} (off {row['off']:.3f}; {row['tried']} settings tried)"
        )


def _print_weights(fusion: dict[str, Any] | None) -> None:
    if fusion is None:
        return
    values = fusion["weights"]
    weights = (
        "per question"
        if values is None
        else ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    )
    source = (
        f"learned on other patients (seed {fusion['seed']})"
        if "seed" in fusion
        else fusion["labels"]
    )
    print(f"MCR's weights, {source}: {weights}")


def _print_problems(about: dict[str, Any]) -> None:
    for kind, count in about.get("problems", {}).items():
        print(f"left out of the data: {count} x {kind}")
    listed = about.get("problem_list", [])
    for problem in listed[:_LISTED]:
        print(plain(f"  left out: {problem}"))
    if len(listed) > _LISTED:
        print(f"  and {len(listed) - _LISTED} more; --json lists them all")


def _interval(ends: tuple[float, float] | None, scale: float = 1, digits: int = 3) -> str:
    if ends is None:
        return "[no interval]"
    return "[" + ", ".join(f"{scale * end:.{digits}f}" for end in ends) + "]"
