"""``eval --data vqa-rad`` without a model: what a vote of the retrieved pairs is worth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.plots import draw_table, save

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.votes.features import Features
    from mrrag_llamaindex.evaluation.votes.study import Share, VoteStudy

_SHIPPED = (
    "no --root: the cases that are shipped, a small part of VQA-RAD, with vectors that were "
    "computed beforehand (tools/real_cases/make.py); for trying the command, not for figures"
)


def vote_study(
    root: Path | None,
    *,
    question_file: Path | None,
    images: Path | None,
    image_encoder: str | None,
    text_encoder: str | None,
    out: Path | None,
    picture: Path | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Run the study and print its table."""
    from mrrag_llamaindex.evaluation.votes.report import lines, markdown
    from mrrag_llamaindex.evaluation.votes.study import run_study
    from mrrag_llamaindex.evaluation.votes.tables import vote_tables

    problems: dict[str, int] = {}
    notes = []
    if root is None:
        from mrrag_llamaindex.evaluation.votes.shipped import shipped_features

        if any((question_file, images, image_encoder, text_encoder)):
            raise InputError("--data vqa-rad needs --root, the folder of your copy, for its files")
        features = shipped_features()
        notes.append(_SHIPPED)
    else:
        features, problems = _features(
            *(root, question_file, images),
            image_encoder or defaults.IMAGE_ENCODER,
            text_encoder or defaults.TEXT_ENCODER,
            device,
        )
    console.say_progress("fitting heads on the other folds of the images")
    study = run_study(vote_tables(features, seed), seed, console.say_progress)
    groups = len(set(features.groups.tolist()))
    notes += [
        f"encoders: {features.encoders}; seed {seed}",
        f"{len(features.images)} images in {groups} groups of near-duplicates",
        *(f"left out: {count} x {kind}" for kind, count in problems.items()),
    ]
    sentences = [*lines(study), *notes]
    value: dict[str, Any] = {
        "data": "vqa-rad",
        "seed": seed,
        **study.as_dict(),
        "encoders": features.encoders,
        "images_in_groups": groups,
        "problems": problems,
        "notes": notes,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        listed = "".join(f"- {line}\n" for line in sentences)
        write_atomically(out / "votes.md", f"{markdown(study)}\n\n{listed}")
        write_atomically(out / "votes.json", json.dumps(value, indent=1) + "\n")
    if picture is not None:
        save(draw_table(_closed(study)), picture)
    if as_json:
        console.print_json(value)
    else:
        _print(study, sentences)


def _closed(study: VoteStudy) -> dict[str, Any]:
    """Return accuracy on the closed questions as a table of `draw_table`."""
    names = [row.name.replace("_", "-") for row in study.rows]
    return {
        "data": "vqa-rad by vote",
        "n": study.closed,
        "majority": {"label": "the same", "accuracy": study.majority},
        "rows": [
            {"method": name, "accuracy": row.closed.value, "accuracy_ci": row.closed.ci}
            for name, row in zip(names, study.rows, strict=True)
        ],
    }


def _features(
    root: Path,
    question_file: Path | None,
    images: Path | None,
    image_encoder: str,
    text_encoder: str,
    device: str,
) -> tuple[Features, dict[str, int]]:
    from mrrag_llamaindex.evaluation.data.readers.vqa_rad import read_all_questions
    from mrrag_llamaindex.evaluation.votes.features import encode
    from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
    from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone

    asked = read_all_questions(root, questions=question_file, images=images)
    image = TransformersImageBackbone.load(image_encoder).to(device)
    text = TransformersTextBackbone.load(text_encoder).to(device)
    with progress_bar("images and texts") as advance:
        features = encode(
            *(asked.training, asked.test, image, text),
            name=f"{Path(image_encoder).name} and {Path(text_encoder).name}",
            progress=advance,
        )
    return features, dict(Counter(item.kind for item in asked.problems))


def _print(study: VoteStudy, sentences: list[str]) -> None:
    screen = console.screen()
    table = console.plain_table(2 if screen.width >= 100 else 1)
    table.add_column("vote by", no_wrap=True)
    for name in ("training", "closed", "exact", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("always the same", "", f"{study.majority:.3f}", "", "")
    for row in study.rows:
        table.add_row(
            row.name.replace("_", "-"),
            f"{row.training:.3f}",
            *(shown(item) for item in (row.closed, row.exact, row.f1)),
        )
    screen.print(table)
    for line in sentences:
        screen.print(line, soft_wrap=True)


def shown(share: Share | None) -> str:
    """Return a value with its interval."""
    from mrrag_llamaindex.evaluation.votes.report import cell

    return cell(share)
