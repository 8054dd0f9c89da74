"""Several views of one study: pairs that share its report, and ids that tell them apart."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.store.pair import STUDY_KEY, Pair, Skipped


def view_id(pair_id: str, number: int) -> str:
    """Return the id of a study's nth view: that of the row for the first, then ``id:2``."""
    return pair_id if number == 1 else f"{pair_id}:{number}"


def views_of(
    images: Sequence[str | None], pair_id: str, study_id: str | None
) -> list[tuple[str | None, str, dict[str, str]]]:
    """Return image, pair id and study of each pair that a row makes.

    Parameters
    ----------
    images
        One image, or those of a list. Several are of one study, whose id is the row's own where
        it names none.
    pair_id, study_id
        Of the row.
    """
    if len(images) > 1:
        known = [image for image in images if image is not None]
        if len(known) < len(images) or len(set(known)) < len(known):
            raise InputError("the list of images has an empty entry, or one image twice")
        study_id = study_id or pair_id
    study = {} if study_id is None else {STUDY_KEY: study_id}
    return [
        (image, view_id(pair_id, number) if pair_id else "", study)
        for number, image in enumerate(images or [None], start=1)
    ]


@dataclass
class _Study:
    """What the rows of one pair id had in common so far."""

    study_id: str
    patient_id: str | None
    images: list[str] = field(default_factory=list)


def number_views(items: Iterable[Pair | Skipped]) -> Iterator[Pair | Skipped]:
    """Yield the items; rows that repeat a pair id with another image of its study get own ids.

    Only where study and patient are the same: any other repetition is left as it is, so that it is
    noticed.
    """
    studies: dict[str, _Study] = {}
    for item in items:
        if isinstance(item, Skipped) or item.study_id is None or not isinstance(item.image, str):
            yield item
            continue
        first = studies.setdefault(item.pair_id, _Study(item.study_id, item.patient_id))
        image = os.path.normpath(item.image)
        same = (first.study_id, first.patient_id) == (item.study_id, item.patient_id)
        if same and image not in first.images:
            first.images.append(image)
            item = replace(item, pair_id=view_id(item.pair_id, len(first.images)))
        yield item
