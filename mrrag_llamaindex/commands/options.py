"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.readers import DATA_SETS
from mrrag_llamaindex.evaluation.tasks.registry import TASKS
from mrrag_llamaindex.files.rows import spellings
from mrrag_llamaindex.plots.style import check_target

if TYPE_CHECKING:
    from mrrag_llamaindex.store.hits import Exclusion
    from mrrag_llamaindex.store.protocol import PairStore

    Data = str
    TaskName = str
else:
    TaskName = Literal[TASKS]
    """What is asked."""
    Data = Literal[(defaults.PHANTOM, *DATA_SETS)]
    """Questions to evaluate on: synthetic ones, or one's own copy."""


def _drawable(picture: Path | None) -> Path | None:
    """Refuse a picture that could not be written before what it shows is computed."""
    if picture is not None:
        check_target(picture)
    return picture


SPEED = ("device", "batch_size", "as_json")
"""Parameters that change no result: any mode of a command takes them."""

NOTICE = "Research software, not a medical device."

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Columns = Annotated[
    str,
    typer.Option(
        help="Where names differ: image=filename,patient_id=subject. Reports may be joined: "
        "report=findings+impression."
    ),
]
ColumnsOfQuestions = Annotated[
    str, typer.Option("--columns", help="Where names differ: image=filename,patient_id=subject")
]
Encoding = Annotated[
    str | None, typer.Option(help="Of a text table that is not UTF-8: cp1252, utf-16, ...")
]
Delimiter = Annotated[
    str | None, typer.Option(help="Between the cells of a .csv or .tsv table: ';', '|', tab.")
]
FailOnSkipped = Annotated[
    bool, typer.Option("--fail-on-skipped", help="Exit 1 if any row was skipped.")
]
Images = Annotated[Path | None, typer.Option(help="Folder of the images, if not the table's own.")]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Values that become black and white, in place of the files' own window (DICOM: after "
        "the rescale, as HU).",
    ),
]
Frame = Annotated[
    int | None, typer.Option(min=1, help="Which frame or page of files that hold several, from 1.")
]
Synthetic = Annotated[
    Literal["phantom"] | None,
    typer.Option(help="In place of a file: synthetic studies, labelled by their truth."),
]
Records = Annotated[Path | None, typer.Argument(help="File that mrrag mine wrote (.jsonl).")]
HeldOut = Annotated[
    float, typer.Option(min=0.05, max=0.9, help="Share of the patients to measure on.")
]
SplitSeed = Annotated[int, typer.Option(min=0, help="Of the split by patient.")]
Root = Annotated[
    Path | None, typer.Option(help="Folder of the data set, as it is laid out on disk.")
]
QuestionFile = Annotated[
    Path | None, typer.Option(help="Where the questions lie, if not at their usual place.")
]
ReportFile = Annotated[
    Path | None, typer.Option(help="The pairs that documents come from, likewise.")
]
ImageFolder = Annotated[Path | None, typer.Option(help="Folder of the images, likewise.")]
Store = Annotated[
    str | None,
    typer.Option(
        help="Folder of the store, or its URL: http://host:port, postgresql://..., qdrant+http://..."
    ),
]
StoreOfLearned = Annotated[
    str | None,
    typer.Option(
        "--store", help="Store, a folder or a URL, in which it is kept; in place of a file."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Fusion weights (JSON); default: fusion_weights.json in the store."),
]
CalibrationOrNone = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|none",
        help="What turns scores into probabilities; default: calibration.json in the store.",
    ),
]
CombineImages = Annotated[
    Literal["mean", "max"],
    typer.Option(help="Several images: score of a pair over them."),
]
ExcludePatient = Annotated[
    list[str] | None, typer.Option(help="Patient whose pairs may not be evidence.")
]
Steered = Annotated[bool, typer.Option(help="Steer attention by the scores.")]
ModelOrDefault = Annotated[
    str | None,
    typer.Option(help=f'"phantom", a folder, or a hub id; default: {defaults.DEFAULT_MODEL}.'),
]
Model = Annotated[str, typer.Option(help='"phantom", a folder, or a hub id.')]
ModelOfData = Annotated[
    str | None,
    typer.Option(help='"phantom", a folder, or a hub id. By default phantom, for data LLaVA-Med.'),
]
TowersOfData = Annotated[
    str | None, typer.Option(help='"phantom", a folder, or a hub id; must be named for data.')
]
VisionTower = Annotated[
    str,
    typer.Option(
        metavar="checkpoint|clip|PATH",
        help="For the original layout: the checkpoint's own tower, the CLIP that it names, or "
        "the folder of a CLIP model.",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read .bin files, which are pickles."),
]
Adapter = Annotated[
    str | None,
    typer.Option(help="LoRA adapter of the model: a folder of peft, or a hub id."),
]
MergeAdapter = Annotated[
    bool,
    typer.Option("--merge-adapter", help="Add the adapter to the weights, rounded to their type."),
]
OnePer = Annotated[
    Literal["patient", "study", "none"],
    typer.Option(help="What takes one place at most among the documents."),
]
Engine = Annotated[
    Literal["transformers", "vllm"],
    typer.Option("--engine", help="What runs the model (vllm: extra vllm)."),
]
ApiBase = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A vLLM server that runs the model; --model is its folder."),
]
Device = Annotated[
    str, typer.Option(help='A torch device, or "auto": CUDA where present, else CPU.')
]
Picture = Annotated[
    Path | None,
    typer.Option(callback=_drawable, help="File for a picture: .png, .svg or .pdf (extra plot)."),
]
PictureOfAnswer = Annotated[
    Path | None,
    typer.Option(
        "--picture",
        callback=_drawable,
        help="File for a picture: .png, .svg or .pdf (extra plot). It shows the image, the "
        "question and the evidence.",
    ),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        metavar="int8|int4", help="Weights of the text model in 8 or 4 bits (bitsandbytes)."
    ),
]


def refuse_given(ctx: typer.Context, names: Container[str | None], why: str) -> None:
    """Raise `InputError` if one of these parameters stands on the command line."""
    for parameter in ctx.command.params:
        source = str(ctx.get_parameter_source(parameter.name or ""))
        if parameter.name in names and source.endswith("COMMANDLINE"):
            is_option = parameter.opts[0].startswith("-")
            name = parameter.opts[0] if is_option else parameter.name
            raise InputError(f"{name} cannot be given here: {why}")


def refuse_unread(ctx: typer.Context, read: Iterable[str], why: str) -> None:
    """Raise `InputError` if a parameter is given that is not read in this mode of a command.

    Parameters
    ----------
    ctx : typer.Context
        Of the command.
    read : iterable of str
        Names of those that are, beside `SPEED`.
    why : str
        What the mode does, for the error message.
    """
    refuse_given(ctx, set(ctx.params) - {*read, *SPEED}, why)


def calibration_given(calibration: str | None) -> str | Literal[False] | None:
    """Read ``--calibration PATH|none``: False for none, None for the store's own."""
    return False if calibration == "none" else calibration


def exclusion_of(store: PairStore, patients: list[str] | None) -> Exclusion:
    """Read ``--exclude-patient``; of a patient that the store does not hold, a note says so.

    It may be right, since the patient in question need not be stored, and it may be a typing error.
    """
    from mrrag_llamaindex.store.hits import Exclusion

    exclude = Exclusion(patient_ids=frozenset(patients or ()))
    for patient in patients or ():
        if not any(map(store.holds_patient, spellings(patient))):
            console.say("note", f"no stored pair is of patient {patient!r}: none was left out")
    return exclude


def renames_of(columns: str) -> dict[str, str]:
    """Parse ``--columns image=filename,report=notes``; raise `InputError` if it is not so."""
    renames = {}
    for item in filter(None, columns.split(",")):
        name, equals, column = item.partition("=")
        if not equals or not name.strip() or not column.strip():
            raise InputError(f"--columns: {item!r} is not of the form name=column")
        renames[name.strip()] = column.strip()
    return renames
