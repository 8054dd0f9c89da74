"""Pairs into a store: ``ingest``, and what it would do: ``ingest --check``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from mrrag_llamaindex import defaults
from mrrag_llamaindex.commands import console, options
from mrrag_llamaindex.commands.cluster import options as cluster
from mrrag_llamaindex.commands.progress import Advance, progress_bar
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.images.options import ReadingOptions
    from mrrag_llamaindex.store.ingest.admission import Missing
    from mrrag_llamaindex.store.ingest.ingest import IngestReport
    from mrrag_llamaindex.store.ingest.pair_table import TableRows
    from mrrag_llamaindex.store.pair import Pair, Skipped
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.store.schema import StoreSchema

    _FirstUsable: TypeAlias = Callable[[], Iterator[Pair | Skipped]]


def ingest(
    pairs: Annotated[
        Path,
        typer.Argument(
            help="Table (.csv, .tsv, .json, .jsonl, .xlsx) with columns pair_id, image, report and "
            "optional patient_id, study_id; all others become metadata."
        ),
    ],
    store: options.Store = None,
    towers: Annotated[
        str | None, typer.Option(help='"phantom", a folder of towers, or a hub id.')
    ] = None,
    columns: options.Columns = "",
    encoding: options.Encoding = None,
    delimiter: options.Delimiter = None,
    images: options.Images = None,
    window: options.Window = None,
    frame: options.Frame = None,
    missing: Annotated[
        Literal["skip", "keep"],
        typer.Option(help="A pair without image or report: skip and list it, or keep it."),
    ] = "skip",
    strict: Annotated[bool, typer.Option(help="Stop at the first row that fails.")] = False,
    replace: Annotated[
        bool, typer.Option(help="Let a row replace a stored pair of another patient.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Read everything, store nothing: list what would be skipped and why, and write "
            "a page of thumbnails as the images are read.",
        ),
    ] = False,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(help="check: the page (.png). Default: TABLE-contact-sheet.png, here."),
    ] = None,
    fail_on_skipped: options.FailOnSkipped = False,
    batch_size: Annotated[int, typer.Option(min=1, max=2000)] = defaults.INGEST_BATCH,
    device: options.Device = "auto",
    ray: cluster.Ray = None,
    workers: cluster.Workers = None,
    gpus_per_worker: cluster.GPUsPerWorker = None,
    as_json: options.AsJson = False,
) -> None:
    """Embed image/report pairs into a store; run it again to resume or to update."""
    from mrrag_llamaindex.images.options import ReadingOptions
    from mrrag_llamaindex.store.ingest.pair_table import read_pairs
    from mrrag_llamaindex.store.places import require_kept

    spread = cluster.RayOptions(ray, workers, gpus_per_worker)
    if not check and (store is None or towers is None):
        raise InputError("name --store and --towers, or say --check to store nothing")
    if contact_sheet is not None and not check:
        raise InputError("--contact-sheet goes with --check")
    if spread and check:
        raise InputError("--check embeds nothing: leave --ray out")
    reading = ReadingOptions.parse(window, frame)
    rows = read_pairs(
        pairs, options.renames_of(columns), images, encoding=encoding, delimiter=delimiter
    )
    if check:
        sheet = contact_sheet or Path(f"{pairs.stem}-contact-sheet.png")
        _check(rows, store, missing, replace, reading, sheet, as_json, fail_on_skipped)
        return
    assert store is not None
    assert towers is not None
    require_kept(store)
    target = _Target(store, towers, device, replace, reading)
    settings = {"batch_size": batch_size, "missing": missing, "strict": strict}
    first = partial(_from_first_usable, rows, missing, strict, reading, as_json)
    if spread:
        report, total = target.by_workers(spread, rows, first, images or pairs.parent, settings)
    else:
        report, total = target.by_this_process(rows, first, settings)
    notes = tuple(rows.notes)
    if as_json:
        skipped = console.skipped_rows(report.skipped)
        console.print_json(asdict(report) | {"skipped": skipped, "notes": notes})
    else:
        console.print_report(report, total, notes)
    _require_some(report.added + report.updated, report.skipped)
    console.end_with_skipped(len(report.skipped), as_json=as_json, fail=fail_on_skipped)


@dataclass(frozen=True)
class _Target:
    """Where pairs go, and what embeds them: the options of these names."""

    store: str
    towers: str
    device: str
    replace: bool
    reading: ReadingOptions

    def by_this_process(
        self, rows: TableRows[Pair], first: _FirstUsable, settings: dict[str, Any]
    ) -> tuple[IngestReport, int]:
        """Ingest; return what was done, and how many pairs the store then holds."""
        from mrrag_llamaindex.store.ingest.ingest import ingest_pairs
        from mrrag_llamaindex.store.schema import StoreSchema
        from mrrag_llamaindex.towers.loading import load_towers

        encoder = load_towers(self.towers, device=self.device)
        settings = settings | {"replace": self.replace, "reading": self.reading}
        return self._into(
            StoreSchema.of(encoder),
            rows,
            first,
            lambda items, store, progress: ingest_pairs(
                items, store, encoder, progress=progress, **settings
            ),
        )

    def by_workers(
        self,
        spread: cluster.RayOptions,
        rows: TableRows[Pair],
        first: _FirstUsable,
        images: Path,
        settings: dict[str, Any],
    ) -> tuple[IngestReport, int]:
        """Do the same with the workers of a cluster."""
        from mrrag_llamaindex.store.ingest import workers

        server = workers.server_of(self.store)
        embedder = workers.Embedder(self.towers, self.device, server, self.replace, self.reading)
        with spread.pool(embedder.loaded, self.device, [images]) as pool:
            return self._into(
                pool.ask(workers.schema_of),
                rows,
                first,
                lambda items, store, progress: workers.ingest_with_workers(
                    items, store, pool, writes=server is not None, progress=progress, **settings
                ),
            )

    def _into(
        self,
        schema: StoreSchema,
        rows: TableRows[Pair],
        first: _FirstUsable,
        ingest: Callable[[Iterable[Pair | Skipped], PairStore, Advance], IngestReport],
    ) -> tuple[IngestReport, int]:
        from mrrag_llamaindex.store.protocol import PairStore

        items = rows if PairStore.exists(self.store) else first()
        with (
            PairStore.open_or_create(self.store, schema) as target,
            progress_bar("pairs") as advance,
        ):
            return ingest(items, target, advance), len(target)


def _check(
    rows: TableRows[Pair],
    store: str | None,
    missing: Missing,
    replace: bool,
    reading: ReadingOptions,
    page: Path,
    as_json: bool,
    fail: bool,
) -> None:
    from contextlib import ExitStack

    from mrrag_llamaindex.files.rows import unusable
    from mrrag_llamaindex.images.contact_sheet import ContactSheet
    from mrrag_llamaindex.store.ingest.check import check_pairs
    from mrrag_llamaindex.store.protocol import PairStore

    sheet = ContactSheet()
    with ExitStack() as stack:
        known = None
        if store is not None and PairStore.exists(store):
            known = stack.enter_context(PairStore.open(store))
        advance = stack.enter_context(progress_bar("pairs read"))
        report = check_pairs(
            rows,
            missing=missing,
            replace=replace,
            reading=reading,
            store=known,
            on_image=lambda pair, image: sheet.add(pair.pair_id, image),
            progress=advance,
        )
    if sheet.images:
        try:
            sheet.save(page)
        except OSError as error:
            raise unusable(page, error, "written") from None
    if as_json:
        skipped = console.skipped_rows(report.skipped)
        facts = {"contact_sheet": str(page) if sheet.images else None, "thumbnails": len(sheet)}
        console.print_json(asdict(report) | {"skipped": skipped, **facts})
    else:
        what = (
            f"; contact sheet of {len(sheet)} of {sheet.images} images: {page}"
            if sheet.images
            else ""
        )
        console.print_check(report, what)
    _require_some(report.usable, report.skipped)
    console.end_with_skipped(len(report.skipped), as_json=as_json, fail=fail, would="would be")


def _from_first_usable(
    rows: TableRows[Pair], missing: Missing, strict: bool, reading: ReadingOptions, as_json: bool
) -> Iterator[Pair | Skipped]:
    """Return the rows once one is known that can be stored, so that no empty store is made.

    Raises
    ------
    InputError
        If there is none; they are printed before. In strict mode, for the first that cannot.
    """
    from mrrag_llamaindex.store.ingest.admission import Admission
    from mrrag_llamaindex.store.ingest.check import skip_reason
    from mrrag_llamaindex.store.ingest.ingest import IngestReport
    from mrrag_llamaindex.store.pair import Skipped

    admission = Admission(missing)
    before: list[Pair | Skipped] = []
    skipped: list[Skipped] = []
    for item in rows:
        before.append(item)
        number = item.row or len(before)
        reason = skip_reason(admission, number, item, reading)
        if reason is None:
            return chain(before, rows)
        skipped.append(Skipped(number, item.pair_id, reason))
        if strict:
            raise InputError(str(skipped[-1]))
    report = IngestReport(0, 0, 0, tuple(skipped), 0.0, tuple(rows.notes))
    if as_json:
        console.print_json(asdict(report) | {"skipped": console.skipped_rows(skipped)})
    else:
        console.print_report(report, 0, report.notes)
    _require_some(0, report.skipped)
    return iter(())


def _require_some(usable: int, skipped: tuple[Skipped, ...]) -> None:
    if skipped and not usable:
        raise InputError(f"none of the {len(skipped)} rows could be used; the first: {skipped[0]}")
