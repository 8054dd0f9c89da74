"""Which options each way of evaluating reads; what else is given is refused by name."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from mrrag_llamaindex.commands import options

_ANY = ("data", "task_name", "out", "picture", "seed")
_SCORED = (*_ANY, "scoring", "compare", "section", "clinical", "radeval_python")
_OF_A_MODEL = {
    *("model", "quantization", "vision_tower", "allow_pickle", "adapter", "merge_adapter"),
    *("runtime", "api_base", "max_new_tokens", "ray", "workers", "gpus_per_worker"),
}


def check_rescored(ctx: typer.Context) -> None:
    """Refuse what has no meaning where the answers of a finished run are read again."""
    why = "--rescore reads the answers of a run as they are: leave data and models out"
    options.refuse_unread(ctx, (*_SCORED, "rescored", "methods"), why)


def check_predictions(ctx: typer.Context) -> None:
    """Refuse what has no meaning where the answers of other models are scored alone."""
    read = ("root", "question_file", "predictions", "name", "questions")
    why = (
        "--predictions without --methods, --model or --towers are scored alone; nothing is "
        "retrieved and no model is asked"
    )
    options.refuse_unread(ctx, (*_SCORED, *read), why)


def check_votes(ctx: typer.Context) -> None:
    """Refuse what has no meaning where retrieved pairs answer by vote."""
    read = ("root", "question_file", "images", "image_encoder", "text_encoder")
    why = (
        "--data vqa-rad without --model or --methods answers by vote, and takes --root, "
        "--question-file, --images, --image-encoder, --text-encoder, --out, --picture and --seed"
    )
    options.refuse_unread(ctx, (*_ANY, *read), why)


def check_source(ctx: typer.Context, *, synthetic: bool) -> None:
    """Refuse what is about the other kind of data, synthetic or one's own."""
    if synthetic:
        options.refuse_given(ctx, {"validation"}, "the phantom is tuned on studies of their own")
        options.refuse_given(ctx, {"section"}, "the phantom's reports have no sections")
    else:
        options.refuse_given(ctx, {"seeds"}, "seeds of data are drawn with --data phantom")


def check_without_model(ctx: typer.Context, rows: Sequence[str]) -> None:
    """Refuse what says how a model answers where none of the rows asks one."""
    options.refuse_given(ctx, _OF_A_MODEL, f"{', '.join(rows)} asks no model")
