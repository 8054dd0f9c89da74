"""Fusion weights from training records or the phantom's truth: ``train-fusion``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrrag_llamaindex import console, defaults
from mrrag_llamaindex.commands.options import AsJson, Device
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.retrieval.fusion_recall import Candidates, FusionComparison

_PHANTOM_QUESTIONS = 400


def train_fusion(
    records: Annotated[
        Path | None, typer.Argument(help="File that mrrag mine wrote (.jsonl).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the weights (JSON).")] = None,
    data: Annotated[
        Literal["phantom"] | None,
        typer.Option(help="In place of a file: synthetic studies, labelled by their truth."),
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0.05, max=0.9, help="Share of the patients to measure on.")
    ] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the loss; above zero.")] = 0.07,
    learn_temperature: Annotated[
        bool, typer.Option(help="Learn it, and give the weights the length of (1, 1, 1).")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split by patient.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn how much each similarity counts, and say what that is worth on other patients."""
    from mrrag_llamaindex.retrieval.fusion_recall import learn_and_compare
    from mrrag_llamaindex.retrieval.fusion_training import FusionSettings

    if (records is None) == (data is None):
        raise InputError("name either a file of training records or --data phantom")
    try:
        settings = FusionSettings(temperature=temperature, learn_temperature=learn_temperature)
    except ValueError as error:
        raise InputError(str(error)) from None
    questions, identity = _phantom(seed, device) if records is None else _mined(records)
    made = learn_and_compare(questions, held_out=held_out, seed=seed, settings=settings)
    if out is not None:
        try:
            made.learned.weights.save(out, towers_identity=identity)
        except OSError as error:
            raise InputError(f"{out.name} cannot be written: {error.strerror}") from None
    if as_json:
        console.print_json(made.as_dict())
    else:
        _print(made)


def _mined(path: Path) -> tuple[list[Candidates], str]:
    from mrrag_llamaindex.retrieval.fusion_recall import Candidates
    from mrrag_llamaindex.retrieval.training_records import read_training_set

    found = read_training_set(path)
    if not found.usable:
        raise InputError(f"{path.name} holds no question that there is something to learn from")
    return [Candidates.of_record(record) for record in found.usable], found.header.towers_identity


def _phantom(seed: int, device: str) -> tuple[list[Candidates], str]:
    from mrrag_llamaindex.phantom.support_labels import label_phantom
    from mrrag_llamaindex.towers.loading import load_towers

    towers = load_towers(defaults.PHANTOM, device=device)
    return label_phantom(seed, towers, queries=_PHANTOM_QUESTIONS), towers.identity


def _print(made: FusionComparison) -> None:
    weights = made.learned.weights
    print(
        f"learned weights: image-text {weights.image_text:.3f}, image-image "
        f"{weights.image_image:.3f}, text-text {weights.text_text:.3f} "
        f"(temperature {made.learned.temperature:.3f})"
    )
    print(f"recall@1 on {made.n} questions of other patients (95% interval, by patient):")
    for name, value in made.recall.items():
        low, high = made.ci[name]
        print(f"  {name:<12} {value:.3f} [{low:.3f}, {high:.3f}]")
    for name in (made.best_single, "equal"):
        low, high = made.ci[f"learned-{name}"]
        verdict = "more than noise" if low > 0 or high < 0 else "not more than noise"
        print(f"  learned minus {name}: [{low:+.3f}, {high:+.3f}], {verdict}")
