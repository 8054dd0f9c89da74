"""Training data for the fusion from a generator's confidence: ``mine``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.cluster import options as cluster
from mrrag_llamaindex.commands.models import ModelOptions
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence
    from mrrag_llamaindex.learning.mining.mining import MiningReport
    from mrrag_llamaindex.learning.mining.settings import Pool
    from mrrag_llamaindex.learning.mining.workers import Raters
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
    from mrrag_llamaindex.store.pair import Skipped
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.protocol import DualTower

_PHANTOM_QUESTIONS = 200


def mine(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="File of training records (.jsonl); made or resumed.")],
    questions: Annotated[
        Path | None,
        typer.Argument(
            help="Table (.csv, .tsv, .json, .jsonl, .xlsx) with columns question_id, image, "
            "question, answer, and patient_id, study_id or pair_id."
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(help="Folder of the store, or a URL.")] = None,
    data: Annotated[
        Literal["phantom"] | None,
        typer.Option(help="In place of table and store: synthetic studies."),
    ] = None,
    model: options.Model = defaults.DEFAULT_MODEL,
    weights: Annotated[
        Path | None, typer.Option(help="Fusion weights that retrieve the candidates (JSON).")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=2, help="Documents tried per question; default 15, with --labels 60."),
    ] = None,
    negatives: Annotated[
        int, typer.Option(min=1, help="Most negatives per question.")
    ] = defaults.NEGATIVES,
    margin: Annotated[
        float, typer.Option(min=0, help="Least distance of a negative from the positive.")
    ] = 0.05,
    pool: Annotated[
        str,
        typer.Option(
            metavar="mixed|each_term|fused",
            help="What retrieves the candidates; mixed: also pairs drawn at random.",
        ),
    ] = "mixed",
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,...",
            help="In place of a table of questions and a model: columns of the stored pairs; a "
            "pair of another patient with the same value is right.",
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            help="With --labels: what is asked; {label} and the pair's columns stand by name. "
            "Default: What is the {label}?"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most questions of the table, drawn by the seed; --data phantom: how many are "
            f"made, {_PHANTOM_QUESTIONS} unless told. Not with --labels: all pairs ask.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    columns: options.ColumnsOfQuestions = "",
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    images: options.Images = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts per forward pass; fewer take less memory.")
    ] = 32,
    quantization: options.Quantization = None,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    adapter: options.Adapter = None,
    merge_adapter: options.MergeAdapter = False,
    fail_on_skipped: options.FailOnSkipped = False,
    device: options.Device = "auto",
    ray: cluster.Ray = None,
    workers: cluster.Workers = None,
    gpus_per_worker: cluster.GPUsPerWorker = None,
    as_json: options.AsJson = False,
) -> None:
    """Find out which retrieved documents lead a model to the right answers; resumes by itself."""
    from mrrag_llamaindex.learning.mining.labels import (
        CANDIDATES,
        QUESTION,
        LabelQuestions,
        mine_labels,
    )
    from mrrag_llamaindex.learning.mining.mining import mine as mine_into
    from mrrag_llamaindex.learning.mining.settings import MiningSettings
    from mrrag_llamaindex.store.ingest.question_table import GoldQuestion, read_questions

    spread = cluster.RayOptions(ray, workers, gpus_per_worker)
    if question is not None and labels is None:
        raise InputError("--question is asked with --labels only")
    if labels is not None:
        _check_labels(ctx)
        pairs, towers = _opened(store or "", device)
        fusion = _weights(pairs, weights)
        asked = LabelQuestions(
            _label_names(labels),
            question or QUESTION,
            MiningSettings(fusion, candidates or CANDIDATES, cast("Pool", pool), seed=seed),
        )
        with progress_bar("pairs asked about") as advance:
            report = mine_labels(pairs, towers, asked, out, advance)
        _end(report, report.skipped, out, as_json=as_json, fail=fail_on_skipped)
        return
    training: list[GoldQuestion] = []
    rejected: list[Skipped] = []
    if data is not None:
        if questions is not None or store is not None:
            raise InputError("--data phantom brings its own questions and store; name no others")
        options.refuse_given(ctx, _OF_TABLES, "--data phantom reads no table")
        training, pairs, towers = _phantom(limit or _PHANTOM_QUESTIONS, seed, device)
        limit = None
    else:
        if questions is None or store is None:
            raise InputError("name a table of questions and --store, or --data phantom")
        renames = options.renames_of(columns)
        for item in read_questions(
            questions, renames, images, encoding=encoding, delimiter=delimiter
        ):
            if isinstance(item, GoldQuestion):
                training.append(item)
            else:
                rejected.append(item)
        pairs, towers = _opened(store, device)
    fusion = _weights(pairs, weights)
    settings = MiningSettings(
        weights=fusion,
        candidates=candidates or defaults.CANDIDATES,
        pool=cast("Pool", pool),  # checked there
        negatives=negatives,
        margin=margin,
        questions=limit,
        seed=seed,
    )
    generator = ModelOptions(
        *(model, device, quantization, vision_tower, allow_pickle, adapter, merge_adapter)
    )
    load = partial(_confidence, generator, batch_size)
    read = [images or questions.absolute().parent] if questions else []
    with (
        _raters(spread, load, device, out.absolute().parent, read) as confidence,
        progress_bar("questions mined") as advance,
    ):
        report = mine_into(training, pairs, towers, confidence, out, settings, advance)
    _end(report, (*rejected, *report.skipped), out, as_json=as_json, fail=fail_on_skipped)


@contextmanager
def _raters(
    spread: cluster.RayOptions,
    load: Callable[[], AnswerConfidence],
    device: str,
    out: Path,
    read: list[Path],
) -> Iterator[AnswerConfidence | Raters]:
    from mrrag_llamaindex.learning.mining.workers import Raters, itself

    if not spread:
        yield load()
        return
    out.mkdir(parents=True, exist_ok=True)
    with spread.pool(load, device, [out, *read]) as pool:
        yield Raters(pool, itself)


def _confidence(generator: ModelOptions, batch_size: int) -> AnswerConfidence:
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.learning.mining.confidence import AnswerConfidence

    return AnswerConfidence(LlavaEngine(generator.load(), max_new_tokens=2), batch_size=batch_size)


def _end(
    report: MiningReport, skipped: tuple[Skipped, ...], out: Path, *, as_json: bool, fail: bool
) -> None:
    if as_json:
        rows = console.skipped_rows(skipped, "question_id")
        console.print_json({**asdict(report), "skipped": rows, "out": str(out)})
    else:
        _print(report, skipped, out)
    if skipped and not report.mined + report.resumed:
        raise InputError(
            f"none of the {len(skipped)} questions could be used; the first: {skipped[0]}"
        )
    console.end_with_skipped(len(skipped), as_json=as_json, fail=fail)


_OF_TABLES = {"columns", "encoding", "delimiter", "images", "fail_on_skipped"}
_WITH_LABELS = {
    *("out", "store", "labels", "question", "weights", "candidates", "pool", "seed"),
    "fail_on_skipped",
}


def _check_labels(ctx: typer.Context) -> None:
    """Refuse what has no meaning where labels take the place of questions and a model."""
    options.refuse_unread(ctx, _WITH_LABELS, "--labels asks every pair of the store, and no model")
    if ctx.params.get("store") is None:
        raise InputError("--labels are those of the pairs in a store: name it with --store")


def _label_names(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    twice = [name for name in names if names.count(name) > 1]
    if not names or twice:
        what = f"names {twice[0]!r} twice" if twice else f"is {text!r} and names no column"
        raise InputError(f"--labels {what}; name one or several, each once: finding,view")
    return names


def _weights(store: PairStore, path: Path | None) -> AnyWeights:
    from mrrag_llamaindex.mcr.weights_file import load_weights

    if path is None:
        return store.schema.blocks.equal_weights()
    return load_weights(path, towers_identity=store.towers_identity)


def _opened(store: str, device: str) -> tuple[PairStore, DualTower]:
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.loading import load_towers

    pairs = PairStore.open(store)
    if not pairs.towers_source:
        raise InputError("this store's towers existed only in memory when it was made")
    return pairs, load_towers(pairs.towers_source, device=device)


def _phantom(count: int, seed: int, device: str) -> tuple[list[GoldQuestion], PairStore, DualTower]:
    from mrrag_llamaindex.phantom.corpus import make_corpus
    from mrrag_llamaindex.phantom.sets.questions import questions_of, store_of
    from mrrag_llamaindex.towers.loading import load_towers

    towers = load_towers(defaults.PHANTOM, device=device)
    corpus = make_corpus(seed, queries=count)
    return questions_of(corpus), store_of(corpus, towers), towers


def _print(report: MiningReport, skipped: tuple[Skipped, ...], out: Path) -> None:
    total = report.mined + report.resumed
    print(
        f"{report.mined} questions mined in {report.seconds:.1f} s, {report.resumed} before; "
        f"{report.usable} of {total} teach something, {len(skipped)} skipped: {out}"
    )
    console.print_rows(skipped, (), "question_id")
