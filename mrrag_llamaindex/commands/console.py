"""What ``mrrag`` prints: results on standard output, progress and notes on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from mrrag_llamaindex.commands.boundary import (
    TRACEBACK,
    Terminated,
    describe,
    discard,
    plain,
)
from mrrag_llamaindex.plots.words import count as count
from mrrag_llamaindex.plots.words import signed_points

if TYPE_CHECKING:
    from mrrag_llamaindex.doctor.diagnosis import Diagnosis
    from mrrag_llamaindex.doctor.start.steps import Step
    from mrrag_llamaindex.doctor.towers import TowersDiagnosis
    from mrrag_llamaindex.generation.checkpoints.conversion.writing import ConvertedCheckpoint
    from mrrag_llamaindex.phantom.demo import DemoResult
    from mrrag_llamaindex.store.ingest.check import CheckReport
    from mrrag_llamaindex.store.ingest.ingest import IngestReport
    from mrrag_llamaindex.store.pair import Skipped

_TERMS = ("image_text", "image_image", "text_text", "raw_image", "raw_text")


class OneLineErrors(TyperGroup):
    """Print what was wrong in one line and exit with 2; show warnings as one-line notes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the process is ours, so its warnings and loggers may be set."""
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                if package not in ("scipy", "sklearn"):
                    raise
                say("error", f'{package} is not here: pip install "mrrag-llamaindex[learn]"')
                raise typer.Exit(2) from error
            # Click would answer an interrupt and a broken pipe in its own way.
            except (Exception, KeyboardInterrupt, Terminated) as error:
                # Those of the command line itself (usage, --help) carry their own exit code.
                if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                    raise
                if os.environ.get(TRACEBACK):
                    raise
                text, code = describe(error)
                if isinstance(error, BrokenPipeError):
                    discard(sys.stdout)
                else:
                    say("error", text)
                raise typer.Exit(code) from error


def say(kind: str, text: str) -> None:
    """Print one line on standard error."""
    line = f"{kind}: {' '.join(text.split())}"
    screen(stderr=True).print(line, soft_wrap=True)


def say_progress(text: str) -> None:
    """Print what is being done on standard error."""
    screen(stderr=True).print(text, style="dim")


class _Screen(Console):
    """Shows the control characters of a text instead of obeying them."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(plain(it) if isinstance(it, str) else it for it in objects), **options)


def screen(*, stderr: bool = False) -> Console:
    """Return a console that takes no word of a text for markup, an emoji or an escape code."""
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    return _Screen(stderr=stderr, force_jupyter=False, **plain)


def print_json(value: Any) -> None:
    """Print one JSON object; NaN is refused, because it is not JSON."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    sys.stdout.write(text + "\n")


def plain_table(gap: int = 2) -> Table:
    """Return a table without lines."""
    return Table(box=None, padding=(0, gap, 0, 0), header_style="bold")


def skipped_rows(skipped: Iterable[Skipped], name: str = "pair_id") -> list[dict[str, Any]]:
    """Return table rows that were left out as plain values; ``name`` is the key of the id."""
    return [{"row": item.row, name: item.pair_id, "reason": item.reason} for item in skipped]


def print_report(report: IngestReport, total: int, notes: Iterable[str]) -> None:
    """Print what was ingested and every row that was not, with its reason."""
    others = total - report.added - report.updated
    print(
        f"{report.added} added, {report.updated - report.unchanged} updated, {report.unchanged} "
        f"unchanged, {len(report.skipped)} skipped in {report.seconds:.1f} s; the store holds "
        f"{total} pairs" + (f", {others} of them not from this run" if others > 0 else "")
    )
    print_rows(report.skipped, notes)


def print_check(report: CheckReport, sheet: str) -> None:
    """Print what an ingest would do."""
    print(
        f"{report.usable} pairs could be stored, {len(report.skipped)} rows would be skipped "
        f"({report.seconds:.1f} s; nothing was stored){sheet}"
    )
    print_rows(report.skipped, report.notes)


def print_rows(skipped: Iterable[Skipped], notes: Iterable[str], name: str = "pair_id") -> None:
    """Print notes about a table's rows, and each that was left out with its reason."""
    for note in notes:
        print(plain(f"  note: {note}"))
    for item in skipped:
        own = "" if item.pair_id is None else f" ({name} {item.pair_id!r})"
        print(plain(f"  skipped row {item.row}{own}: {item.reason}"))


def end_with_skipped(count: int, *, as_json: bool, fail: bool, would: str = "were") -> None:
    """Say in the last line that rows were skipped; exit 1 if that was asked for."""
    if not count:
        return
    rows = "1 row was" if (count, would) == (1, "were") else f"{count} rows {would}"
    line = f"{rows} skipped, each with its reason above"
    if as_json:
        say("note", f"{rows} skipped")
    else:
        print(line)
    if fail:
        raise typer.Exit(1)


def print_steps(steps: Iterable[Step]) -> None:
    """Print commands, each below what it does, so that all of it can be pasted into a shell."""
    for step in steps:
        needs = f"; needs {step.needs}" if step.needs else ""
        screen().print(f"# {step.what}{needs}", style="dim", soft_wrap=True)
        print(plain(step.command))


def print_answer(answer: Mapping[str, Any]) -> None:
    """Print an answer, as `AskResult.as_dict` or a server returns it, and its sources' table."""
    console = screen()
    _print_line(console, "answer", answer)
    steering = answer["steering"]
    of_image = steering.get("image_tokens", 0)  # servers of earlier versions do not say
    what = (
        f"layers {steering['layers']}: {count(steering['question_tokens'], 'question token')} "
        f"towards {count(steering['document_tokens'] - of_image, 'document token')}"
        + (f" and {count(of_image, 'image token')}" if of_image else "")
        if steering["applied"]
        else f"not applied: {steering['reason']}"
    )
    console.print(f"{'steering':<13}{what}")
    gap = 2 if console.width >= 100 else 1  # ids of sources are not broken on 80 columns
    table = plain_table(gap)
    table.add_column("source", overflow="fold")
    sources = answer["sources"]
    calibrated = any(row["probability"] is not None for row in sources)
    terms = [name for name in _TERMS if all(name in row for row in sources)]
    columns = ["score", *terms, "lambda", *(["probability"] if calibrated else [])]
    for name in columns:
        table.add_column(name.replace("_", "-"), justify="right")
    table.add_column("read")
    explained = any("influence" in row for row in sources)
    if explained:
        table.add_column("moved", justify="right")
    for row in sources:
        numbers = ("-" if row[name] is None else f"{row[name]:.3f}" for name in columns)
        views = f" (+{len(row['views'])} views)" if row["views"] else ""
        cells = [plain(row["pair_id"]) + views, *numbers, "yes" if row["read"] else "no"]
        if explained:
            cells.append(_moved(row.get("influence")))
        table.add_row(*cells)
    console.print(table)
    if explained:
        console.print(
            "moved: points of the answer's probability that come from this document alone;\n"
            "!: without it the answer would be another",
            style="dim",
        )


def print_demo(result: DemoResult) -> None:
    """Print the demo's question, its answer with and without IFA, and where things are."""
    console = screen()
    console.print(Text(result.with_ifa.question, "bold"), end="")
    console.print(f"  (synthetic; the truth is {result.truth})")
    print_answer(result.with_ifa.as_dict())
    _print_line(console, "without IFA", result.without_ifa.as_dict())
    console.print(f"{'picture':<13}{result.picture or result.no_picture}")
    console.print(f"{'store':<13}{result.store} ({result.pairs} pairs)")


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what a model is, what it needs and what this machine has; the verdict comes last."""
    from mrrag_llamaindex.doctor.verdict import gigabytes

    def line(name: str, text: str) -> None:
        console.print(f"{name:<13}{text}", soft_wrap=True)

    console = screen()
    kinds = f"{diagnosis.model_class}, {diagnosis.layout} layout, {diagnosis.stored_dtype}"
    line("model", f"{diagnosis.model} ({kinds}, {gigabytes(diagnosis.stored_bytes)})")
    parts = (f"{n} {count / 1e6:,.1f} M" for n, count in diagnosis.parameters.items() if count)
    line("parameters", ", ".join(parts))
    heads = f"{diagnosis.heads} heads ({diagnosis.key_value_heads} of keys)"
    line("text model", f"{diagnosis.layers} layers, {heads}, window {diagnosis.window} tokens")
    image = f"{diagnosis.image_tokens} image tokens, " if diagnosis.image_tokens else ""
    reports = f"{diagnosis.documents} reports of about 100 tokens"
    line(
        "prompt",
        f"about {diagnosis.prompt_tokens} tokens ({image}{reports}), "
        f"{diagnosis.batch_size} at once",
    )
    for check in diagnosis.checks:
        mark = {"ok": "ok", "note": "note", "problem": "PROBLEM"}[check.state]
        line("", f"{mark:<8}{check.what}: {check.text}")
    versions = (f"{name} {version or '-'}" for name, version in diagnosis.packages.items())
    line("packages", ", ".join(versions))
    copy = "; a converted copy takes as much as the model" if diagnosis.layout == "original" else ""
    line("disk", f"{gigabytes(diagnosis.disk_free)} free beside the model{copy}")
    table = plain_table()
    table.add_column("device", overflow="fold")
    for name in ("weights", "cache", "working", "needs", "free", "of"):
        table.add_column(name, justify="right")
    table.add_column("loaded in", no_wrap=True)
    table.add_column("fits")
    for device in diagnosis.devices:
        need = device.need
        sizes = (need.weights, need.cache, need.working, need.total, device.free, device.total)
        cells = map(gigabytes, sizes)
        table.add_row(device.device, *cells, device.dtype, "yes" if device.fits else "no")
    console.print(table)
    line("", "cache: of all prompts with their answers; working: an estimate for their prefill")


def print_towers(diagnosis: TowersDiagnosis) -> None:
    """Print what towers are and need; the verdict comes last."""
    from mrrag_llamaindex.doctor.verdict import gigabytes

    def line(name: str, text: str) -> None:
        console.print(f"{name:<13}{text}", soft_wrap=True)

    console, draft = screen(), diagnosis.draft
    line("towers", f"{diagnosis.towers} ({draft.kind}, {gigabytes(draft.stored_bytes)})")
    parts = (f"{name} {count / 1e6:,.1f} M" for name, count in draft.parameters.items() if count)
    line("parameters", ", ".join(parts))
    line("space", f"{draft.dimension} dimensions; {draft.pair_numbers} numbers for each pair")
    size = draft.image_size
    line("images", f"{size[0]} x {size[1]} pixels" if size else "of a size that follows the image")
    beyond = "read in windows" if draft.long_text == "mean" else "cut off"
    line("texts", f"{draft.tokens} tokens at once, what is longer is {beyond}")
    for check in draft.checks:
        mark = {"ok": "ok", "note": "note", "problem": "PROBLEM"}[check.state]
        line("", f"{mark:<8}{check.what}: {check.text}")


def print_converted(checkpoint: ConvertedCheckpoint) -> None:
    """Print what a conversion wrote, and its notes."""
    print(
        f"{checkpoint.folder}: {checkpoint.tensors} tensors in {len(checkpoint.files)} files, "
        f"{checkpoint.nbytes / 1e9:.2f} GB; vision tower: {checkpoint.vision_source}"
    )
    for note in checkpoint.notes:
        print(plain(f"  note: {note}"))


def _print_line(console: Console, name: str, answer: Mapping[str, Any]) -> None:
    console.print(
        f"{name:<13}{answer['answer']:<7} p(yes) {answer['p_yes']:.3f}   "
        f"p(no) {answer['p_no']:.3f}",
    )


def _moved(influence: Mapping[str, Any] | None) -> str:
    if influence is None:
        return "-"
    return f"{signed_points(influence['points'])}{'!' if influence['flips'] else ''}"


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        say("note", str(message))
