"""Every method on the same questions, in one table: ``eval``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.cluster import options as cluster
from mrrag_llamaindex.commands.evaluate import modes
from mrrag_llamaindex.commands.models import ModelOptions
from mrrag_llamaindex.commands.progress import progress_bar
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.methods.registry import METHODS, chosen_methods, row_named
from mrrag_llamaindex.evaluation.tasks.metrics.clinical_metrics import CLINICAL, chosen_metrics
from mrrag_llamaindex.evaluation.tasks.registry import task_named
from mrrag_llamaindex.evaluation.tasks.task import Scoring

if TYPE_CHECKING:
    from mrrag_llamaindex.commands.evaluate.data import OwnCopy
    from mrrag_llamaindex.commands.evaluate.eval_report import Telling
    from mrrag_llamaindex.evaluation.data.data_set import Asked
    from mrrag_llamaindex.evaluation.run.workers import AnsweringWorkers
    from mrrag_llamaindex.generation.interface import Engine


_PHANTOM_BATCH = 32


def evaluate(
    ctx: typer.Context,
    data: Annotated[
        options.Data, typer.Option(help="The questions; all but phantom are your own copies.")
    ],
    root: options.Root = None,
    task_name: Annotated[
        options.TaskName,
        typer.Option("--task", help="What is asked, and how it is scored."),
    ] = "yes-no",
    question_file: options.QuestionFile = None,
    report_file: options.ReportFile = None,
    images: options.ImageFolder = None,
    model: options.ModelOfData = None,
    towers: options.TowersOfData = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(
            help="vqa-rad by vote: folder or hub id of a frozen image encoder; default "
            f"{defaults.IMAGE_ENCODER}."
        ),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help=f"vqa-rad by vote: of a text encoder; default {defaults.TEXT_ENCODER}."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Fusion weights (JSON); without it they are learned.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help=f"Some only, of {', '.join(METHODS)}.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Phantom: seeds of data, pooled.")] = 5,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Most questions (per seed), drawn by the seed.")
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="K|FIRST-LAST",
            help="K, reports in the prompt; 1-6 runs each number and compares them.",
        ),
    ] = None,
    one_per: options.OnePer = "study",
    validation: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9,
            help="Own data: share of the patients to learn and tune on; not scored. 0: published "
            "settings, all questions scored.",
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
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help="Rows whose paired difference is told, A minus B; again for another.",
        ),
    ] = None,
    scoring: Annotated[
        Literal["leading", "cares"], typer.Option(help="How answers are read.")
    ] = "leading",
    section: Annotated[
        Literal["report", "findings", "impression"] | None,
        typer.Option(help="Task report: what is to be written; default: the whole report."),
    ] = None,
    clinical: Annotated[
        str | None,
        typer.Option(
            help="Task report: clinical metrics by RadEval, some of "
            f"{', '.join(CLINICAL)}; their models are downloaded by it."
        ),
    ] = None,
    radeval_python: Annotated[
        str | None, typer.Option(help="The Python that has RadEval, if not this one.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for answers, tables and plot; a stopped run goes on from it."),
    ] = None,
    picture: options.Picture = None,
    rescored: Annotated[
        Path | None,
        typer.Option(
            "--rescore",
            help="Folder of a finished run: its answers are read by --scoring; no model runs.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and intervals.")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; by default as the task has it.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Prompts per forward pass; by default {defaults.BATCH_SIZE}, of the phantom's "
            f"studies {_PHANTOM_BATCH}.",
        ),
    ] = None,
    quantization: options.Quantization = None,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    adapter: options.Adapter = None,
    merge_adapter: options.MergeAdapter = False,
    device: options.Device = "auto",
    runtime: options.Engine = "transformers",
    api_base: options.ApiBase = None,
    ray: cluster.Ray = None,
    workers: cluster.Workers = None,
    gpus_per_worker: cluster.GPUsPerWorker = None,
    as_json: options.AsJson = False,
) -> None:
    """Run the ablation and its baselines on one set of questions, tuned on other patients.

    With --data vqa-rad and neither --model nor --methods, no model is asked: the retrieved pairs
    answer by vote, ranked by every single term, by equal, learned and gated weights.
    """
    from mrrag_llamaindex.commands.evaluate import counts as numbers
    from mrrag_llamaindex.commands.evaluate import data as sources
    from mrrag_llamaindex.commands.evaluate.eval_report import Telling, rescore, scored
    from mrrag_llamaindex.commands.evaluate.votes import vote_study
    from mrrag_llamaindex.evaluation.data import parts as division
    from mrrag_llamaindex.evaluation.methods.learning import learn
    from mrrag_llamaindex.evaluation.run.harness import Harness
    from mrrag_llamaindex.evaluation.run.predictions_file import read_predictions_file
    from mrrag_llamaindex.evaluation.run.records import HarnessSettings
    from mrrag_llamaindex.evaluation.run.workers import AnsweringWorkers
    from mrrag_llamaindex.evaluation.tasks.yes_no import YES_NO
    from mrrag_llamaindex.mcr.weights_file import load_weights
    from mrrag_llamaindex.phantom.sets.describing_set import SETTING as DESCRIBING
    from mrrag_llamaindex.phantom.sets.evaluation_set import SETTING
    from mrrag_llamaindex.towers.loading import load_towers

    spread = cluster.RayOptions(ray, workers, gpus_per_worker)
    task = task_named(task_name)
    compared = _compared(compare or [], name or [])
    read = Scoring(scoring, chosen_metrics(clinical), radeval_python or "", compared)
    if scoring != "leading" and task is not YES_NO:
        raise InputError(f"--scoring {scoring} reads a yes or a no; the task is {task.name}")
    if any((section, clinical, radeval_python)) and task.name != "report":
        raise InputError("--section, --clinical and --radeval-python belong to --task report")
    if radeval_python and not clinical:
        raise InputError("--radeval-python computes clinical metrics: name some with --clinical")
    asked = task.asked(scoring, section or "report")
    telling = Telling(read, seed, out, picture, as_json, task)
    own_data = data != defaults.PHANTOM
    alone = bool(predictions) and own_data and not any((methods, model, towers, weights))
    by_vote = (
        data == "vqa-rad"
        and task is YES_NO
        and not any((methods, model, towers, predictions, report_file))
    )
    if spread and (rescored is not None or alone or by_vote):
        raise InputError("--ray spreads what a model is asked, and here none is: leave it out")
    if rescored is not None:
        modes.check_rescored(ctx)
        rescore(data, rescored, methods, telling)
        return
    if alone:
        _check_compared(compared, name or [])
        modes.check_predictions(ctx)
        _score_predictions(
            sources.OwnCopy(data, sources.check_root(data, root), question_file, None, None, None),
            _named(predictions or [], name or [], ()),
            questions,
            asked,
            telling,
        )
        return
    if by_vote:
        modes.check_votes(ctx)
        vote_study(
            root,
            question_file=question_file,
            images=images,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            out=out,
            seed=seed,
            picture=picture,
            device=device,
            as_json=as_json,
        )
        return
    if image_encoder or text_encoder:
        raise InputError("--image-encoder and --text-encoder belong to --data vqa-rad by vote")
    wanted = chosen_methods(methods)
    others = _named(predictions or [], name or [], wanted)
    _check_compared(compared, (*wanted, *(label for label, _ in others)))
    counts = numbers.chosen_counts(documents)
    # Read first: what is wrong with the data is said before a model is loaded.
    synthetic = data == defaults.PHANTOM
    modes.check_source(ctx, synthetic=synthetic)
    if synthetic:
        if any((root, question_file, report_file, images, facts)):
            raise InputError("--data phantom draws its own studies; leave --root and its files out")
        sets = sources.phantom_sets(seeds, questions, task.name)
        usual = (SETTING if task is YES_NO else DESCRIBING).documents
    else:
        folder = sources.check_copy(data, root, towers)
        copy = sources.OwnCopy(data, folder, question_file, report_file, images, facts)
        sets = [division.drawn_questions(copy.read(scoring, asked=asked), questions, seed)]
        usual = defaults.MAX_DOCUMENTS
    counts = counts or (usual,)
    if picture and len(counts) > 1:
        raise InputError(
            "--picture shows one table: with several numbers of documents leave it out, and find "
            "a picture of each in --out"
        )
    usual_length = task.max_new_tokens
    if synthetic:
        usual_length = min(usual_length, 4 if task is YES_NO else 20)
    longest = max_new_tokens or usual_length
    settings = HarnessSettings(wanted, counts[0], longest, scoring, seed, task)
    encoder = load_towers(towers or defaults.PHANTOM, device=device)
    fusion_weights = (
        None if weights is None else load_weights(weights, towers_identity=encoder.identity)
    )
    generates = any(row_named(name).generates for name in wanted)
    shipped = defaults.PHANTOM if task is YES_NO else defaults.PHANTOM_DESCRIBING
    chosen = model or (shipped if synthetic else defaults.DEFAULT_MODEL)
    if not generates:
        modes.check_without_model(ctx, wanted)
    generator = partial(
        ModelOptions(
            *(chosen, device, quantization, vision_tower, allow_pickle, adapter, merge_adapter)
        ).any_engine,
        *(runtime, api_base),
        max_documents=max(*counts, defaults.MAX_DOCUMENTS),
        max_new_tokens=settings.max_new_tokens,
        batch_size=batch_size or (_PHANTOM_BATCH if synthetic else defaults.BATCH_SIZE),
    )
    engine: Engine | AnsweringWorkers | None = None
    layers = "no model was asked"
    with ExitStack() as stack:
        if spread:
            engine = stack.enter_context(_workers(spread, generator, device, out, (root, images)))
            layers = engine.facts.note
        elif generates:
            engine, layers = generator()
        where = None if synthetic else out
        data_sets, store = stack.enter_context(sources.embedded(sets, encoder, where))
        data_sets = [replace(item, one_per=one_per) for item in data_sets]
        if synthetic:
            fit, tune, *tests = data_sets
            parts = division.Parts(tuple(tests), fit, tune)
        else:
            parts = division.split_parts(data_sets[0], validation, seed, learns=weights is None)
        with progress_bar("questions mined") as advance:
            learned = learn(
                *(parts.fit, store, encoder),
                engine.raters if isinstance(engine, AnsweringWorkers) else engine,
                facts_from=data_sets[0],
                weights=fusion_weights,
                wanted=wanted,
                documents=counts[0],
                folder=out,
                seed=seed,
                progress=advance,
            )
        runs = {}
        for count in counts:
            with progress_bar("answers") as advance:
                harness = Harness(
                    *(engine, encoder.identity, replace(settings, documents=count)),
                    folder=numbers.folder_of(out, count, counts),
                    progress=lambda method, *counted, show=advance: show(*counted, method),
                )
                runs[count] = harness.run(parts.tests, learned, parts.tune)
    problems = [problem for item in sets for problem in item.problems] + sources.unreadable(
        data_sets
    )
    scored_set = division.pooled_questions(sets[-1], parts.tests)
    outside = {}
    for label, path in others:
        outside[label], strangers = read_predictions_file(path, scored_set, label)
        problems += strangers
    cares = sources.neither_yes_nor_no(sets, scoring)
    for line in cares:
        console.say("note", line)
    values = {}
    for count, run in runs.items():
        notes = (*run.notes, layers, *cares, *sources.unread_references(sets))
        if len(counts) > 1 and not as_json:
            console.screen().print(f"\nK = {count}")
        values[count] = scored(
            *(scored_set.name, {**run.predictions, **outside}, replace(run, notes=notes), problems),
            replace(telling, out=numbers.folder_of(out, count, counts)),
        )
    if len(counts) > 1:
        numbers.compare_counts(values, task, as_json=as_json)
    elif as_json:
        console.print_json(values[counts[0]])


@contextmanager
def _workers(
    spread: cluster.RayOptions,
    generator: Callable[[], tuple[Engine, str]],
    device: str,
    out: Path | None,
    read: tuple[Path | None, ...],
) -> Iterator[AnsweringWorkers]:
    from mrrag_llamaindex.evaluation.run.workers import Answerer, AnsweringWorkers

    if out is None:
        raise InputError("--ray needs --out, a folder that all machines see: answers go there")
    out.mkdir(parents=True, exist_ok=True)
    with spread.pool(partial(Answerer, generator), device, [out, *filter(None, read)]) as pool:
        workers = AnsweringWorkers(pool)
        console.say("note", workers.facts.note)
        yield workers


def _score_predictions(
    copy: OwnCopy,
    others: list[tuple[str, Path]],
    count: int | None,
    asked: Asked,
    telling: Telling,
) -> None:
    """Score other models' answers alone: no image, pair, tower or model is needed."""
    from mrrag_llamaindex.commands.evaluate import data as sources
    from mrrag_llamaindex.commands.evaluate.eval_report import report
    from mrrag_llamaindex.evaluation.data.parts import drawn_questions
    from mrrag_llamaindex.evaluation.run.predictions_file import read_predictions_file
    from mrrag_llamaindex.evaluation.run.records import Evaluation

    rule = telling.scoring.rule
    read = copy.read(rule, asked=asked, answers_only=True)
    scored = drawn_questions(read, count, telling.seed)
    problems = list(scored.problems)
    answers = {}
    for label, path in others:
        answers[label], strangers = read_predictions_file(path, scored, label)
        problems += strangers
    cares = sources.neither_yes_nor_no([scored], rule)
    for line in cares:
        console.say("note", line)
    notes = ("only answers were scored: no model was asked, and every question counts", *cares)
    run = Evaluation(answers, {}, (), notes, ())
    report(scored.name, answers, run, problems, telling)


def _compared(texts: list[str], others: list[str]) -> tuple[tuple[str, str], ...]:
    """Read ``--compare A,B``."""
    pairs = []
    for text in texts:
        pair = [part.strip() for part in text.split(",")]
        if len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"--compare {text!r} is no pair of two rows: A,B")
        for one in pair:
            if one not in (*METHODS, *others):
                known = ", ".join((*METHODS, *others))
                raise InputError(f"--compare {text!r}: there is no row {one!r}; there are: {known}")
        pairs.append((pair[0], pair[1]))
    return tuple(dict.fromkeys(pairs))


def _check_compared(compared: tuple[tuple[str, str], ...], rows: Sequence[str]) -> None:
    """Refuse to compare a row that is not going to be there."""
    for pair in compared:
        for one in pair:
            if one not in rows:
                raise InputError(
                    f"--compare {','.join(pair)}: {one} is not among the rows of this run "
                    f"({', '.join(rows)}): add it to --methods, or leave the comparison out"
                )


def _named(files: list[Path], names: list[str], wanted: tuple[str, ...]) -> list[tuple[str, Path]]:
    if len(files) != len(names):
        raise InputError(
            f"{len(files)} --predictions and {len(names)} --name: give one name for each file"
        )
    if not all(name.strip() for name in names):
        raise InputError("--name is empty: the row needs a name")
    taken = [name for name in names if name in wanted or names.count(name) > 1]
    if taken:
        raise InputError(f"--name {taken[0]!r} is the name of another row")
    return list(zip(names, files, strict=True))
