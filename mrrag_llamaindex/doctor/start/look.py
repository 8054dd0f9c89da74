"""What a table of pairs is, as far as it says so by itself: ``mrrag init``."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex.doctor.start import images as pictures
from mrrag_llamaindex.doctor.start.columns import (
    NAMES,
    ColumnChoice,
    find_by_name,
    find_id,
    find_labels,
    find_report,
    plain_name,
)
from mrrag_llamaindex.doctor.start.images import ImageSurvey
from mrrag_llamaindex.doctor.start.sample import TableSample
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.ingest.admission import Admission
from mrrag_llamaindex.store.ingest.pair_table import OPTIONAL, REQUIRED, read_pairs
from mrrag_llamaindex.store.pair import Pair

_ROW = re.compile(r"^row \d+")
_MOST_REASONS: Final = 20


@dataclass(frozen=True)
class TableLook:
    """A table of pairs, looked at.

    Attributes
    ----------
    table : str
    encoding, delimiter, images_folder : str or None
        What ``mrrag ingest`` has to be told; None for what it takes by itself.
    columns : tuple of ColumnChoice
        The roles that are filled.
    metadata : tuple of str
        All other columns.
    labels : tuple of str
        Those of them that hold one of a few values: weights can be learned from these.
    pairs, skipped : int
        What an ingest would store and leave out, as far as shows before images are decoded.
    reasons : dict of str to int
        Why rows would be left out, the most frequent first.
    patients, without_patient : int
        Different patients, and pairs of none.
    images : ImageSurvey or None
        None where no column is known to name images.
    problems : tuple of str
        What keeps the table from being ingested.
    notes : tuple of str
    """

    table: str
    encoding: str | None
    delimiter: str | None
    images_folder: str | None
    columns: tuple[ColumnChoice, ...]
    metadata: tuple[str, ...]
    labels: tuple[str, ...] = ()
    pairs: int = 0
    skipped: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    patients: int = 0
    without_patient: int = 0
    images: ImageSurvey | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def roles(self) -> dict[str, str]:
        """Role to column, as ``--columns`` takes them."""
        return {choice.role: choice.column for choice in self.columns}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        values = asdict(self)
        if self.images is not None:
            values["images"]["dicom"] = self.images.dicom
        return values


def look_at(
    table: str | os.PathLike[str],
    *,
    given: Mapping[str, str] | None = None,
    images: str | os.PathLike[str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    opened: int = pictures.OPENED,
    progress: Callable[[int, int], None] | None = None,
) -> TableLook:
    """Find out how a table of pairs is to be read, and what an ingest would make of it.

    Parameters
    ----------
    table : path
    given : mapping of str to str, optional
        Role to column, where the user has said so.
    images, encoding, delimiter : optional
        As for `read_pairs`; what is not given is found out.
    opened : int
        Images that are decoded, at most.
    progress : callable, optional
        See `mrrag_llamaindex.doctor.start.images.survey`.

    Raises
    ------
    InputError
        If the file is no table that is read here, or a column that is given is not there. What
        else is wrong stands in `problems`.
    """
    sample = TableSample.read(table, encoding=encoding, delimiter=delimiter)
    chosen, place = _choices(sample, dict(given or {}), None if images is None else Path(images))
    roles = {choice.role: choice.column for choice in chosen}
    used = {name for column in roles.values() for name in (column, *column.split("+"))}
    folder = Path(images) if images is not None else place.folder if place else None
    look = TableLook(
        table=str(table),
        encoding=sample.encoding,
        delimiter=sample.delimiter,
        images_folder=None if folder is None else str(folder),
        columns=chosen,
        metadata=tuple(name for name in sample.columns if name not in used),
        labels=find_labels(sample.rows, sorted(used)),
    )
    if lacking := [role for role in REQUIRED if role not in roles]:
        return replace(look, problems=tuple(_lacking(sample, role, roles) for role in lacking))
    return _counted(look, opened, progress)


def _choices(
    sample: TableSample, given: dict[str, str], images: Path | None
) -> tuple[tuple[ColumnChoice, ...], pictures.ImagePlace | None]:
    """Return the columns that fill roles, and where the images lie."""
    for role, column in given.items():
        if role not in (*REQUIRED, *OPTIONAL):
            raise InputError(f"--columns: {role!r} is none of {', '.join((*REQUIRED, *OPTIONAL))}")
        for name in column.split("+") if column not in sample.columns else [column]:
            if name.strip() not in sample.columns:
                raise InputError(
                    f"{sample.path.name} has no column {name.strip()!r}; it has: "
                    f"{', '.join(sample.columns)}"
                )
    place = pictures.find_images(sample, images, given.get("image"))
    found: dict[str, ColumnChoice | None] = {}
    if place is not None:
        by_name = plain_name(place.column) in NAMES["image"]
        why = f"{place.found} of the first {place.tried} are files"
        found["image"] = ColumnChoice("image", place.column, "name" if by_name else "content", why)
    image = place.column if place else None
    found["pair_id"] = find_id(sample, image)
    for role in OPTIONAL:
        found[role] = find_by_name(sample, role)
    used = [image, *(choice.column for choice in found.values() if choice)]
    found["report"] = find_report(sample, used)
    for role, column in given.items():
        found[role] = ColumnChoice(role, column, "given", "as you say")
    order = [role for role in (*REQUIRED, *OPTIONAL) if found.get(role) is not None]
    return tuple(choice for role in order if (choice := found[role]) is not None), place


def _lacking(sample: TableSample, role: str, roles: Mapping[str, str]) -> str:
    """Return what to do about a role that no column fills."""
    column = roles.get("image")
    if role == "pair_id" and column is not None:
        counts = Counter(str(value).strip() for value in sample.values(column))
        if (twice := sum(count > 1 for count in counts.values())) and twice < len(counts):
            return (
                "no column has another value in every row, which a pair_id must; of the images, "
                f"{column}, {twice:,} of {len(counts):,} stand in several rows: mend these rows, "
                f"or say --columns pair_id={column}; the first row of an image is stored then, "
                "and the others are listed"
            )
    having = ", ".join(sample.columns)
    return f"no column looks like the {role}; name it: --columns {role}=COLUMN (it has: {having})"


def _counted(
    look: TableLook, opened: int, progress: Callable[[int, int], None] | None
) -> TableLook:
    """Read the whole table as an ingest would, and some of its images."""
    rows = read_pairs(
        look.table,
        {role: column for role, column in look.roles.items() if role != column},
        look.images_folder,
        encoding=look.encoding,
        delimiter=look.delimiter,
    )
    admission = Admission("skip")
    reasons: Counter[str] = Counter()
    patients: set[str] = set()
    paths: list[str] = []
    pairs = nobody = 0
    for number, item in enumerate(rows, start=1):
        if not isinstance(item, Pair):
            reasons[_ROW.sub("an earlier row", item.reason)] += 1
            continue
        if isinstance(item.image, str):
            paths.append(item.image)
        try:
            admission.admit(item.row or number, item)
        except InputError as error:
            reasons[_ROW.sub("an earlier row", str(error))] += 1
            continue
        pairs += 1
        nobody += item.patient_id is None
        if item.patient_id is not None:
            patients.add(item.patient_id)
    survey = pictures.survey(paths, most=opened, progress=progress)
    counts = replace(
        look,
        pairs=pairs,
        skipped=sum(reasons.values()),
        reasons=dict(reasons.most_common(_MOST_REASONS)),
        patients=len(patients),
        without_patient=nobody,
        images=survey,
    )
    return replace(counts, problems=_problems(counts, survey), notes=_notes(counts, survey))


def _problems(look: TableLook, survey: ImageSurvey) -> tuple[str, ...]:
    if not look.pairs:
        first = next(iter(look.reasons), "it has no rows")
        return (f"no row of {Path(look.table).name} can become a pair; the first reason: {first}",)
    if survey.missing == survey.named:
        return ("none of the images is where the table says: name their folder, --images FOLDER",)
    if survey.opened and not survey.readable:
        return (f"none of the images can be read: {next(iter(survey.unreadable))}",)
    return ()


def _notes(look: TableLook, survey: ImageSurvey) -> tuple[str, ...]:
    notes = []
    if look.without_patient:
        which = "pairs have" if look.without_patient < look.pairs else "pairs, all of them, have"
        notes.append(
            f"{look.without_patient:,} {which} no patient, so they are never left out together "
            "with their patient; if a column names patients: --columns patient_id=COLUMN"
        )
    if look.encoding == "cp1252":
        notes.append(
            "the table is not UTF-8; cp1252 is a guess, so look at the umlauts of a report"
        )
    if survey.missing:
        notes.append(f"{survey.missing:,} of {survey.named:,} images are not there")
    if bad := survey.opened - survey.readable:
        notes.append(f"{bad:,} of {survey.opened:,} images that were opened cannot be read")
    if survey.opened < survey.named - survey.missing:
        notes.append(
            f"{survey.opened:,} of {survey.named - survey.missing:,} images were opened; "
            "mrrag ingest --check opens all"
        )
    return tuple(notes)
