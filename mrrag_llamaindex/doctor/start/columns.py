"""Which column of a table is which: by its name, and by what it holds.

A name alone is not believed: an identifier must be unique, images must be files, a report must be
text. Who the patient is, no content can tell, so a patient's column is known by its name only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from mrrag_llamaindex.doctor.start.sample import TableSample

Found = Literal["name", "content", "given"]

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "pair_id": ("pairid", "id", "uid", "imageid", "dicomid", "sopinstanceuid", "key", "index"),
    "image": ("image", "imagepath", "path", "file", "filename", "imagefile", "dicom", "img", "png"),
    "report": ("report", "text", "caption", "reporttext", "notes", "description", "narrative"),
    "patient_id": (
        *("patientid", "patient", "patientno", "patientnr", "patientnumber", "patid", "patno"),
        *("patnr", "patientennummer", "patientennr", "subjectid", "subject", "mrn", "personid"),
    ),
    "study_id": ("studyid", "study", "studyinstanceuid", "accession", "accessionnumber", "examid"),
    "question_id": ("questionid", "qid", "id"),
    "question": ("question", "query"),
    "answer": ("answer", "gold", "goldanswer", "answers"),
}
"""Names of the columns of a role, in small letters without marks; the best first."""

PARTS_OF_REPORTS: Final = ("findings", "impression")
"""Where there is no report: a report is these, one below the other."""

_NO_LABELS: Final = frozenset(
    (
        *("sex", "gender", "age", "race", "ethnicity", "split", "fold", "date", "year", "site"),
        *("scanner", "view", "views", "viewpos", "viewposition", "projection", "laterality"),
    )
)
"""Of people, tables and how an image was taken: no finding that one pair could tell of another."""

_IMAGE = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp|gif|webp|jp2|pgm|ppm)$", re.IGNORECASE)
_LONGEST_LABEL = 40
_MOST_LABELS = 50


@dataclass(frozen=True)
class ColumnChoice:
    """The column that fills a role.

    Attributes
    ----------
    role : str
    column : str
        Its name; of a report that is joined, ``findings+impression``.
    by : {"name", "content", "given"}
        What told it.
    why : str
        What was seen there, in words.
    """

    role: str
    column: str
    by: Found
    why: str


def plain_name(column: str) -> str:
    """Return a column's name in small letters without marks.

    Examples
    --------
    >>> plain_name("Patient ID"), plain_name("image_path")
    ('patientid', 'imagepath')
    """
    return re.sub(r"[^a-z0-9]", "", column.lower())


def named(sample: TableSample, role: str) -> list[str]:
    """Return the columns whose name is one of a role's, the best first."""
    order = {name: place for place, name in enumerate(NAMES[role])}
    columns = [column for column in sample.columns if plain_name(column) in order]
    return sorted(columns, key=lambda column: order[plain_name(column)])


def find_id(sample: TableSample, image: str | None) -> ColumnChoice | None:
    """Return the column of ids, which must be unique; where there is none, that of the images.

    Never the patients' column, even where every patient has one row: the next film would collide.
    """
    people = {name for role in ("patient_id", "study_id") for name in named(sample, role)}
    others = [name for name in sample.columns if name not in people]
    for by, columns in (("name", named(sample, "pair_id")), ("content", others)):
        for column in columns:
            values = sample.values(column)
            whole = len(values) == len(sample.rows)
            short = all(isinstance(v, (str, int)) and len(str(v)) <= 128 for v in values)
            prose = sum(" " in str(value) for value in values) > len(values) / 2
            if by == "content" and (column == image or prose):
                continue
            if whole and short and len({str(value).strip() for value in values}) == len(values):
                why = f"{len(values):,} values, none twice"
                return ColumnChoice("pair_id", column, by, why)  # type: ignore[arg-type]
    if image is None:
        return None
    values = [str(value) for value in sample.values(image)]
    if len(set(values)) == len(values) == len(sample.rows):
        return ColumnChoice("pair_id", image, "content", "the image's name: no column is unique")
    return None


def find_report(sample: TableSample, used: Sequence[str | None]) -> ColumnChoice | None:
    """Return the column of reports: one of that name, findings and impression, or the longest."""
    for column in named(sample, "report"):
        if column not in used and sample.values(column):
            return ColumnChoice("report", column, "name", _words(sample.values(column)))
    parts = [
        name for part in PARTS_OF_REPORTS for name in sample.columns if plain_name(name) == part
    ]
    if parts:
        texts = [value for part in parts for value in sample.values(part)]
        return ColumnChoice("report", "+".join(parts), "name", _words(texts))
    lengths = {
        column: _mean_words(sample.values(column))
        for column in sample.columns
        if column not in used
    }
    best = max(lengths, key=lambda column: lengths[column], default=None)
    if best is None or lengths[best] < 3:
        return None
    return ColumnChoice("report", best, "content", _words(sample.values(best)))


def find_by_name(sample: TableSample, role: str) -> ColumnChoice | None:
    """Return the column of a role that only a name can tell."""
    for column in named(sample, role):
        values = [str(value) for value in sample.values(column)]
        if values:
            why = f"{len(set(values)):,} different in {len(values):,} rows"
            return ColumnChoice(role, column, "name", why)
    return None


def find_labels(rows: Sequence[Mapping[str, Any]], used: Sequence[str]) -> tuple[str, ...]:
    """Return columns that hold one of a few short values, as a diagnosis or a modality does.

    Parameters
    ----------
    rows : sequence of mapping
        Of a table, or the metadata of pairs.
    used : sequence of str
        Columns that are something else.
    """
    labels = []
    for column in dict.fromkeys(name for row in rows for name in row):
        if column in used or plain_name(column) in _NO_LABELS:
            continue
        values = [str(row[column]).strip() for row in rows if row.get(column) not in (None, "")]
        kinds = set(values)
        repeated = 2 <= len(kinds) <= min(_MOST_LABELS, len(values) // 4)
        numbers = sum(value.replace(".", "", 1).lstrip("-").isdigit() for value in kinds) > 2
        if repeated and not numbers and max(map(len, kinds)) <= _LONGEST_LABEL:
            labels.append(column)
    return tuple(labels)


def share_of_images(values: Sequence[Any]) -> float:
    """Return the share of cells, or of the first in lists, that end as names of images do."""
    cells = [value[0] if isinstance(value, list) and value else value for value in values]
    matches = sum(isinstance(cell, str) and bool(_IMAGE.search(cell.strip())) for cell in cells)
    return matches / len(cells) if cells else 0.0


def _mean_words(values: Sequence[Any]) -> float:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values) or not texts or share_of_images(texts) > 0.5:
        return 0.0
    return sum(len(text.split()) for text in texts) / len(texts)


def _words(values: Sequence[Any]) -> str:
    texts = [value for value in values if isinstance(value, str)]
    if texts and all(text.strip().lower().endswith(".txt") for text in texts):
        return f"{len(texts):,} names of text files"
    return f"{len(texts):,} texts of {_mean_words(values):.0f} words on average"
