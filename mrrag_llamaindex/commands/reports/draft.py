"""A draft of a report whose sentences name the cases that moved them: ``draft``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.boundary import plain
from mrrag_llamaindex.commands.reports.inputs import read_study
from mrrag_llamaindex.errors import InputError, NoRelevantCase
from mrrag_llamaindex.store.pair import check_encodable

if TYPE_CHECKING:
    from mrrag_llamaindex.integration.answers.report_draft import ReportDraft


def draft(
    image: Annotated[
        list[Path],
        typer.Option(help="The image to describe; again for another image of the same study."),
    ],
    store: options.Store = None,
    prompt: Annotated[str, typer.Option(help="What the model is asked.")] = defaults.DRAFT_PROMPT,
    window: options.Window = None,
    frame: options.Frame = None,
    model: options.ModelOrDefault = None,
    weights: options.Weights = None,
    calibration: options.CalibrationOrNone = None,
    documents: Annotated[
        int, typer.Option(min=1, help="Most cases to retrieve.")
    ] = defaults.MAX_DOCUMENTS,
    one_per: options.OnePer = "study",
    combine_images: options.CombineImages = "mean",
    minimum_probability: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out cases that are less probable; keep one."),
    ] = None,
    abstain: Annotated[
        bool,
        typer.Option("--abstain", help="Write nothing below the calibration's threshold."),
    ] = False,
    exclude_patient: options.ExcludePatient = None,
    ifa: options.Steered = True,
    every_step: Annotated[
        bool,
        typer.Option(
            "--every-step",
            help="Steer the rows of the report's own tokens, too, not the prompt's alone.",
        ),
    ] = defaults.EVERY_STEP,
    threshold: Annotated[
        float,
        typer.Option(
            min=1e-6,
            help="Nats per token from which a case, or the image, counts as having moved a "
            "sentence.",
        ),
    ] = defaults.DRAFT_EFFECT,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest report, in tokens.")
    ] = defaults.MAX_NEW_TOKENS,
    quantization: options.Quantization = None,
    vision_tower: options.VisionTower = "checkpoint",
    allow_pickle: options.AllowPickle = False,
    adapter: options.Adapter = None,
    merge_adapter: options.MergeAdapter = False,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Draft a report; each sentence names the cases that moved it, or says that none did.

    A draft by research software, not a medical device: a radiologist has to check it.
    """
    if store is None:
        raise InputError("--store is missing: give the folder of a store, or its URL")
    if every_step and not ifa:
        raise InputError("--every-step says where IFA steers: leave it out, or leave --no-ifa out")
    from mrrag_llamaindex.generation.checkpoints.quantization import check_name
    from mrrag_llamaindex.store.protocol import PairStore

    started = time.perf_counter()
    check_name(quantization)
    check_encodable(prompt, "the prompt")
    study = read_study(image, window, frame)
    pairs = PairStore.open(store)

    from mrrag_llamaindex.integration.answers.draft import draft_report
    from mrrag_llamaindex.integration.index import MRRAGIndex
    from mrrag_llamaindex.integration.llm import MRRAGLLaVA
    from mrrag_llamaindex.steering.ifa import IFA

    index = MRRAGIndex.from_store(
        pairs,
        weights=weights,
        calibration=options.calibration_given(calibration),
        device=device,
    )
    llm = MRRAGLLaVA(
        model=model or defaults.DEFAULT_MODEL,
        device=device,
        max_documents=documents,
        max_new_tokens=max_new_tokens,
        quantization=quantization,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
        adapter=adapter,
        merge_adapter=merge_adapter,
        ifa=IFA(every_step=every_step) if ifa else None,
    )
    loaded = time.perf_counter()
    try:
        result = draft_report(
            index,
            llm,
            study,
            prompt=prompt,
            threshold=threshold,
            say=console.say_progress if sys.stderr.isatty() else None,
            similarity_top_k=documents,
            exclude=options.exclusion_of(pairs, exclude_patient),
            one_per=one_per,
            combine_images=combine_images,
            minimum_probability=minimum_probability,
            abstain=abstain,
        )
    except NoRelevantCase as nothing:
        _print_nothing(prompt, nothing, as_json)
        return
    result.seconds["load"] = loaded - started
    if as_json:
        console.print_json(result.model_dump())
    else:
        _print_draft(result)


def _print_draft(draft: ReportDraft) -> None:
    screen = console.screen()
    screen.print(Text(draft.notice, "bold"), soft_wrap=True)
    screen.print()
    for sentence in draft.sentences:
        line = Text(plain(sentence.text))
        line.append(f" [{plain(sentence.mark)}]", "yellow" if sentence.unmoved else "dim")
        screen.print(line, soft_wrap=True)
    for remark in draft.remarks:
        screen.print(remark)
    table = console.plain_table(2)
    table.add_column("case", overflow="fold")
    for name in ("score", "lambda", "read"):
        table.add_column(name, justify="right")
    for row in draft.sources:
        numbers = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("score", "lambda"))
        table.add_row(plain(row["pair_id"]), *numbers, "yes" if row["read"] else "no")
    screen.print()
    screen.print(table)
    moved = (
        f"a case is named where a sentence changes by {draft.threshold:g} nats per token without"
    )
    screen.print(f"{moved} it", style="dim", soft_wrap=True)


def _print_nothing(prompt: str, nothing: NoRelevantCase, as_json: bool) -> None:
    """Say that there is no draft; in JSON it is null."""
    if as_json:
        facts: dict[str, Any] = nothing.as_dict(prompt)
        console.print_json({**facts, "report": None, "text": None})
        return
    typer.echo(
        "No relevant case was found, so there is no draft: the best one supports a right answer "
        f"with probability {nothing.probability:.3f}, below {nothing.threshold:.3f}."
    )
    typer.echo(f"\n{options.NOTICE}")
