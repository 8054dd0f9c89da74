"""Answers with their evidence: ``demo``, ``ask``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.reports import pictures
from mrrag_llamaindex.commands.reports.inputs import read_study
from mrrag_llamaindex.errors import InputError, NoRelevantCase
from mrrag_llamaindex.images.load import read_bytes
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.plots import save
from mrrag_llamaindex.serving.client import Client
from mrrag_llamaindex.store.pair import check_encodable


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the images, the store and the picture.")
    ] = Path("mrrag-demo"),
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Seed of the studies; 1 is one in which steering shows. real: which question.",
        ),
    ] = 1,
    real: Annotated[
        bool,
        typer.Option("--real", help="Ask about a real image (VQA-RAD), answered by vote."),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show the whole path on synthetic studies with the small shipped model, offline."""
    if real:
        from mrrag_llamaindex.commands import voting
        from mrrag_llamaindex.evaluation.votes.demo import run_real_demo

        voting.print_real_demo(run_real_demo(out, seed=seed, say=console.say_progress), as_json)
        return
    from mrrag_llamaindex.phantom.demo import run_demo

    result = run_demo(out, seed=seed, say=console.say_progress)
    if as_json:
        console.print_json(result.as_dict())
    else:
        console.print_demo(result)
        typer.echo(f"\n{options.NOTICE}")


def ask(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(help="What to ask about the image.")],
    image: Annotated[
        list[Path],
        typer.Option(help="The query image; again for another image of the same study."),
    ],
    store: options.Store = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask mrrag serve, in place of --store and --model."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="MRRAG_TOKEN", help="server: its token.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="server: seconds to wait for the answer; default 300."),
    ] = None,
    window: options.Window = None,
    frame: options.Frame = None,
    by: Annotated[
        Literal["model", "vote"],
        typer.Option(help="Who answers: a model, or the pairs' own answers, weighted by score."),
    ] = "model",
    model: options.ModelOrDefault = None,
    weights: options.Weights = None,
    calibration: options.CalibrationOrNone = None,
    documents: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Most documents to retrieve: {defaults.MAX_DOCUMENTS}, for a vote "
            f"{defaults.VOTE_DOCUMENTS}.",
        ),
    ] = None,
    one_per: options.OnePer = "study",
    combine_images: options.CombineImages = "mean",
    answer_column: Annotated[
        str | None,
        typer.Option(help="vote: column of the pairs with their answers; default: answer, label."),
    ] = None,
    vote_temperature: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help=f"vote: of the softmax over scores; default {defaults.VOTE_TEMPERATURE}"
        ),
    ] = None,
    minimum_probability: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out documents that are less probable; keep one."),
    ] = None,
    abstain: Annotated[
        bool,
        typer.Option("--abstain", help="Give no answer below the calibration's threshold."),
    ] = False,
    exclude_patient: options.ExcludePatient = None,
    ifa: options.Steered = True,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show how much each document moved the answer."),
    ] = False,
    quantization: options.Quantization = None,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    adapter: options.Adapter = None,
    merge_adapter: options.MergeAdapter = False,
    picture: options.PictureOfAnswer = None,
    device: options.Device = "auto",
    engine: options.Engine = "transformers",
    api_base: options.ApiBase = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer a question about an image from a store of pairs; the store knows its towers."""
    elsewhere = {
        "--model": model,
        "--quantization": quantization,
        "--allow-pickle": allow_pickle,
        "--adapter": adapter,
        "--merge-adapter": merge_adapter,
        "--vision-tower": None if vision_tower == "checkpoint" else vision_tower,
        "--engine": None if engine == "transformers" else engine,
        "--api-base": api_base,
    }
    for_vote = {"--answer-column": answer_column, "--vote-temperature": vote_temperature}
    if picture is not None and pictures.is_one_of(picture, image):
        raise InputError(f"--picture {picture.name} is the image that is asked about: name another")
    if server is not None:
        others = {
            "--store": store,
            "--by": None if by == "model" else by,
            "--weights": weights,
            "--calibration": calibration,
            "--device": None if device == "auto" else device,
        }
        _refuse_local({**others, **elsewhere, **for_vote})
        asked = {
            "k": documents,
            "one_per": one_per,
            "combine_images": None if combine_images == "mean" else combine_images,
            "exclude_patients": exclude_patient or None,
            "minimum_probability": minimum_probability,
            "abstain": abstain,
            "ifa": ifa,
            "explain": explain,
            "window": ReadingOptions.parse(window, frame).window,
            "frame": frame,
        }
        limit = {} if timeout is None else {"seconds": timeout}
        # Of one reading: a file may be replaced at any time.
        study = None if picture is None else read_study(image, window, frame)
        files = (
            [read_bytes(one, what=f"--image {one}") for one in image]
            if study is None
            else [read_bytes(view.content) for view in study.views]  # type: ignore[arg-type]
        )
        answer = _ask_server(Client(server, token, **limit), question, files, asked, as_json)
        if picture is not None and study is not None:
            from mrrag_llamaindex.plots.answer import draw_asked

            if answer is None:
                pictures.say_undrawn(picture)
            else:
                save(draw_asked(study.pictures, answer, {}, {}), picture, private=True)
        return
    if store is None:
        raise InputError("--store is missing: give the folder of a store, or --server")
    if timeout is not None:
        raise InputError("--timeout goes with --server: without one, the answer is waited for")
    options.refuse_given(ctx, {"token"}, "it is shown to --server")
    from mrrag_llamaindex.commands import voting
    from mrrag_llamaindex.generation.checkpoints.quantization import check_name
    from mrrag_llamaindex.store.protocol import PairStore

    started = time.perf_counter()
    voting.check_options(by, {**elsewhere, "--no-ifa": not ifa, "--explain": explain}, for_vote)
    check_name(quantization)
    check_encodable(question, "the question")
    query = read_study(image, window, frame)
    # A store that is not there, or a server that hangs, is told before what takes long to import.
    pairs = PairStore.open(store)

    from mrrag_llamaindex.integration.answers.ask import ask as ask_index
    from mrrag_llamaindex.integration.answers.picture import draw_answer
    from mrrag_llamaindex.integration.answers.vote import ask_by_vote
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA
    from mrrag_llamaindex.steering.ifa import IFA

    index = MRRAGIndex.from_store(
        pairs,
        weights=weights,
        calibration=options.calibration_given(calibration),
        device=device,
    )
    retrieval: dict[str, Any] = {
        "exclude": options.exclusion_of(pairs, exclude_patient),
        "one_per": one_per,
        "combine_images": combine_images,
        "minimum_probability": minimum_probability,
        "abstain": abstain,
    }
    if by == "vote":
        settings: dict[str, Any] = {
            "documents": documents or defaults.VOTE_DOCUMENTS,
            "temperature": vote_temperature or defaults.VOTE_TEMPERATURE,
            "column": answer_column,
        }
        loaded = time.perf_counter()
        try:
            voted = ask_by_vote(index, query, question, **settings, **retrieval)
        except NoRelevantCase as nothing:
            _print_no_answer(question, nothing, as_json)
            pictures.say_undrawn(picture)
            return
        voted.seconds["load"] = loaded - started
        voting.print_vote(voted, as_json=as_json)
        if picture is not None:
            save(draw_answer(query, voted), picture, private=True)
        return
    llm = MRRAGLLaVA(
        model=model or defaults.DEFAULT_MODEL,
        device="auto" if api_base else device,  # the towers run here in any case
        runtime=engine,
        api_base=api_base,
        quantization=quantization,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
        adapter=adapter,
        merge_adapter=merge_adapter,
        ifa=IFA() if ifa else None,
        explain=explain,
    )
    loaded = time.perf_counter()
    try:
        result = ask_index(
            index,
            llm,
            query,
            question,
            say=console.say_progress if sys.stderr.isatty() else None,
            similarity_top_k=documents or defaults.MAX_DOCUMENTS,
            **retrieval,
        )
    except NoRelevantCase as nothing:
        _print_no_answer(question, nothing, as_json)
        pictures.say_undrawn(picture)
        return
    result.seconds["load"] = loaded - started
    _print_answer(result.as_dict(), minimum_probability, as_json)
    if picture is not None:
        save(draw_answer(query, result), picture, private=True)


def _refuse_local(given: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that says what a server has loaded already."""
    for name, value in given.items():
        if value:
            raise InputError(f"{name} is not for a server that runs: give it to mrrag serve")


def _ask_server(
    client: Client,
    question: str,
    files: Sequence[bytes],
    options: Mapping[str, Any],
    as_json: bool,
) -> dict[str, Any] | None:
    """Ask a running server; neither torch nor a store is needed here. None: it gave no answer."""
    check_encodable(question, "the question")
    given = {name: value for name, value in options.items() if value is not None}
    answer = client.ask(question, files, given)
    if answer["answer"] is None:
        names = ("probability", "threshold", "error_rate", "confidence")
        _print_no_answer(question, NoRelevantCase(*(answer[name] for name in names)), as_json)
        return None
    _print_answer(answer, options["minimum_probability"], as_json)
    return answer


def _print_answer(answer: dict[str, Any], minimum: float | None, as_json: bool) -> None:
    if as_json:
        console.print_json(answer)
        return
    console.print_answer(answer)
    if answer["left_out"]:
        left_out = console.count(answer["left_out"], "document")
        typer.echo(f"left out     {left_out} below {minimum:g}")
    typer.echo(f"\n{options.NOTICE}")


def _print_no_answer(question: str, nothing: NoRelevantCase, as_json: bool) -> None:
    """Print that there is no answer; in JSON it is null, so that no text is taken for one."""
    if as_json:
        console.print_json(nothing.as_dict(question))
        return
    typer.echo(
        "No relevant case was found, so there is no answer: the best document supports a right "
        f"one with probability {nothing.probability:.3f}, below {nothing.threshold:.3f}. At "
        f"or above it, at most {nothing.error_rate:.0%} of the best documents do not."
    )
    typer.echo(f"\n{options.NOTICE}")
