"""Every method on the same questions, in one table: ``eval``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrrag_llamaindex import console, defaults
from mrrag_llamaindex.commands.eval_report import report
from mrrag_llamaindex.commands.mine import time_left
from mrrag_llamaindex.commands.options import AllowPickle, AsJson, Device, Quantization, VisionTower
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data_set import EvaluationSet
    from mrrag_llamaindex.evaluation.harness import Evaluation, HarnessSettings
    from mrrag_llamaindex.evaluation.parts import Parts
    from mrrag_llamaindex.evaluation.retrieval_runs import EmbeddedSet
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.retrieval.store import PairStore
    from mrrag_llamaindex.retrieval.weights_file import AnyWeights
    from mrrag_llamaindex.towers.protocol import DualTower

Data = Literal["phantom", "iu-xray", "mimic-cxr", "fairvlmed", "vqa-rad", "table"]

_SECONDS_BETWEEN_LINES = 30.0


def evaluate(
    data: Annotated[Data, typer.Option(help="The questions; all but phantom are your own copies.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set, as it is laid out on disk.")
    ] = None,
    question_file: Annotated[
        Path | None, typer.Option(help="Where the questions lie, if not at their usual place.")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option(help="The pairs to retrieve from, likewise.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, likewise.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help='"phantom", a folder, or a hub id.  [default: LLaVA-Med, or phantom]'),
    ] = None,
    towers: Annotated[
        str | None, typer.Option(help='"phantom", a folder, or a hub id; must be named for data.')
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Fusion weights (JSON); without it they are learned.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Some of them only: naive-rag,mcr,mcr+ifa")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Phantom: seeds of data, pooled.")] = 5,
    questions: Annotated[
        int | None, typer.Option(min=1, help="So many (per seed), drawn by the seed.")
    ] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="K, reports in the prompt.")] = None,
    validation: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Share of the patients to learn and tune on; not "
            "scored. 0: published settings, all questions scored.",
        ),
    ] = 0.3,
    facts: Annotated[
        Path | None,
        typer.Option(help="Finding labels for factmm-rag: csv, pair_id and a column per finding."),
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Answers of another model, one file per row; see --name."),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Its name in the table, one for each file.")
    ] = None,
    scoring: Annotated[
        Literal["leading", "cares"], typer.Option(help="How answers are read.")
    ] = "leading",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for answers, tables and plot; a stopped run goes on from it."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and intervals.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per forward pass.")] = (
        defaults.BATCH_SIZE
    ),
    quantization: Quantization = None,
    vision_tower: VisionTower = "checkpoint",
    allow_pickle: AllowPickle = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Run the ablation and its baselines on one set of questions, tuned on other patients."""
    from mrrag_llamaindex.evaluation.harness import HarnessSettings
    from mrrag_llamaindex.evaluation.methods import chosen_methods
    from mrrag_llamaindex.evaluation.parts import pooled_questions
    from mrrag_llamaindex.evaluation.predictions_file import read_predictions_file
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.generation.loading import load_model
    from mrrag_llamaindex.retrieval.weights_file import load_weights
    from mrrag_llamaindex.towers.loading import load_towers

    wanted = chosen_methods(methods)
    others = _named(predictions or [], name or [], wanted)
    synthetic = data == "phantom"
    if synthetic and any((root, question_file, report_file, images, facts)):
        raise InputError("--data phantom draws its own studies; leave --root and its files out")
    if not synthetic and (root is None or towers is None):
        raise InputError(f"--data {data} needs --root, the folder of your copy, and --towers")
    count = documents or (_phantom_documents() if synthetic else defaults.MAX_DOCUMENTS)
    settings = HarnessSettings(
        methods=wanted,
        documents=count,
        max_new_tokens=min(max_new_tokens, 4) if synthetic else max_new_tokens,
        scoring=scoring,
        seed=seed,
    )
    # Read first: what is wrong with the data is said before a model is loaded.
    places = question_file, report_file, images
    sets = (
        _phantom_sets(seeds, questions)
        if synthetic
        else [_read(data, root or Path(), places, scoring, facts, questions, seed)]
    )
    encoder = load_towers(towers or defaults.PHANTOM, device=device)
    given = None if weights is None else load_weights(weights, towers_identity=encoder.identity)
    loaded = load_model(
        model or (defaults.PHANTOM if synthetic else defaults.DEFAULT_MODEL),
        device=device,
        quantization=quantization,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
    )
    engine = LlavaEngine(
        loaded,
        max_documents=max(count, defaults.MAX_DOCUMENTS),
        max_new_tokens=settings.max_new_tokens,
        batch_size=max(batch_size, 32) if synthetic else batch_size,
    )
    found, parts = _run(sets, encoder, engine, settings, given, out, validation, synthetic)
    asked = pooled_questions(sets[-1], parts.tests)
    runs = dict(found.predictions)
    problems = [problem for item in sets for problem in item.problems]
    for label, path in others:
        runs[label], strangers = read_predictions_file(path, asked, label)
        problems += strangers
    report(asked.name, runs, found, problems, scoring=scoring, seed=seed, out=out, as_json=as_json)


def _run(
    sets: Sequence[EvaluationSet],
    towers: DualTower,
    engine: LlavaEngine,
    settings: HarnessSettings,
    weights: AnyWeights | None,
    out: Path | None,
    validation: float,
    synthetic: bool,
) -> tuple[Evaluation, Parts]:
    from mrrag_llamaindex.evaluation.harness import Harness
    from mrrag_llamaindex.evaluation.learning import learn
    from mrrag_llamaindex.evaluation.parts import Parts, split_parts

    stores: list[PairStore] = []
    try:
        for _ in sets:
            stores.append(_store(towers, None if synthetic else out))
        embedded = _embedded(sets, towers, stores)
        if synthetic:
            fit, tune, *tests = embedded
            parts = Parts(tuple(tests), fit, tune)
        else:
            parts = split_parts(embedded[0], validation, settings.seed, learns=weights is None)
        with _progress("questions mined") as advance:
            learned = learn(
                parts.fit,
                stores[0],
                towers,
                engine,
                facts_from=embedded[0],
                weights=weights,
                wanted=settings.methods,
                folder=out,
                seed=settings.seed,
                progress=lambda done, total, resumed: advance("fusion", done, total, resumed),
            )
        with _progress("answers") as advance:
            harness = Harness(engine, towers.identity, settings, folder=out, progress=advance)
            found = harness.run(parts.tests, learned, parts.tune)
        left_out = [item for part in embedded for item in part.left_out]
        return replace(found, left_out=(*left_out, *found.left_out)), parts
    finally:
        for store in stores:
            store.close()


def _embedded(
    sets: Sequence[EvaluationSet], towers: DualTower, stores: Sequence[PairStore]
) -> list[EmbeddedSet]:
    from mrrag_llamaindex.evaluation.retrieval_runs import embed_set

    sizes = [len(item.pairs) + len(item.questions) for item in sets]
    made: list[EmbeddedSet] = []
    with _progress("vectors") as advance:
        for number, (item, store) in enumerate(zip(sets, stores, strict=True)):
            before = sum(sizes[:number])

            def told(done: int, _: int, before: int = before) -> None:
                advance("towers", before + done, sum(sizes), 0)

            made.append(embed_set(item, towers, store, progress=told))
    return made


def _phantom_sets(seeds: int, questions: int | None) -> list[EvaluationSet]:
    """Return the set to learn on, the set to tune on, and those to score."""
    from mrrag_llamaindex.phantom.evaluation_set import (
        FIT_SEED,
        QUESTIONS,
        TUNE_SEED,
        phantom_set,
    )

    drawn = (FIT_SEED, TUNE_SEED, *range(seeds))
    return [phantom_set(seed, questions=questions or QUESTIONS) for seed in drawn]


def _store(towers: DualTower, out: Path | None) -> PairStore:
    from mrrag_llamaindex.retrieval.store import PairStore

    where: Any = "memory" if out is None else out / "store"
    return PairStore.open_or_create(
        where,
        towers_identity=towers.identity,
        towers_source=towers.source,
        dimension=towers.dimension,
    )


def _named(files: list[Path], names: list[str], wanted: tuple[str, ...]) -> list[tuple[str, Path]]:
    if len(files) != len(names):
        raise InputError(
            f"{len(files)} --predictions and {len(names)} --name: give one name for each file"
        )
    taken = [name for name in names if name in wanted or names.count(name) > 1]
    if taken:
        raise InputError(f"--name {taken[0]!r} is the name of another row")
    return list(zip(names, files, strict=True))


def _phantom_documents() -> int:
    from mrrag_llamaindex.phantom.evaluation_set import SETTING

    return SETTING.documents


def _read(
    data: str,
    root: Path,
    places: tuple[Path | None, Path | None, Path | None],
    scoring: str,
    facts: Path | None,
    count: int | None,
    seed: int,
) -> EvaluationSet:
    from mrrag_llamaindex.evaluation.baselines.finding_table import read_findings
    from mrrag_llamaindex.evaluation.parts import drawn_questions
    from mrrag_llamaindex.evaluation.readers import read_data

    asked, reports, images = places
    found = read_data(data, root, questions=asked, reports=reports, images=images, rule=scoring)
    if facts is not None:
        labels = read_findings(facts, {pair.pair_id for pair in found.pairs})
        found = replace(found, facts=labels)
    return drawn_questions(found, count, seed)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, int, int, int], None]]:
    """Show a bar with the time left on a terminal, elsewhere a line every half minute."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[doing]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    started = told = time.monotonic()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None, doing=what, left="")

        def advance(doing: str, done: int, total: int, resumed: int) -> None:
            nonlocal told
            left = time_left(time.monotonic() - started, done, total, resumed)
            bar.update(task, completed=done, total=total, doing=doing, left=left)
            if not screen.is_terminal and time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                console.say_progress(f"{doing}: {done} of {total} {what}, {left}")

        yield advance
