"""What is excluded and filtered, as a condition in SQL that means what the Python code means.

Metadata are compared as JSON of one kind. Texts are ordered by code points (``COLLATE "C"``), as
Python orders them, whatever the database's language.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal
from psycopg.types.json import Jsonb

from mrrag_llamaindex.files.rows import is_unicode
from mrrag_llamaindex.store.filters import IDENTIFIERS, Comparison, Filter
from mrrag_llamaindex.store.hits import Exclusion
from mrrag_llamaindex.store.pair import MetadataValue

_FIELDS: Final = ("image_path", "missing")
"""Columns that a filter sees beside the metadata and the identifiers."""

_EXACT: Final = 2**53
"""Beyond, a float's shortest text, which JSON holds, is another number than the float."""


class Conditions:
    """A condition and its parameters, named ``c0``, ``c1``, ...

    Parameters
    ----------
    tenant
        Whose pairs.
    filters
        What matches; left out where SQL cannot compare as Python does, so that a match is never
        lost.
    exclude
        What must not be found.

    Attributes
    ----------
    sql
        The condition.
    parameters
        By name.
    selective
        Whether it says more than whose the pairs are.
    """

    def __init__(
        self, tenant: str, filters: Filter | None = None, exclude: Exclusion | None = None
    ) -> None:
        self.parameters: dict[str, Any] = {}
        parts: list[Composable] = [SQL("tenant = {}").format(self._of(tenant))]
        if exclude:
            parts += self._exclusion(exclude)
        if filters is not None and _comparable(filters):
            parts.append(self._filter(filters))
        self.selective = len(parts) > 1
        self.sql: Composable = SQL(" AND ").join(parts)

    def _of(self, value: Any) -> Composable:
        """Return the placeholder of a new parameter."""
        name = f"c{len(self.parameters)}"
        self.parameters[name] = value
        return SQL(f"%({name})s")

    def _exclusion(self, exclude: Exclusion) -> list[Composable]:
        """Leave out who is excluded; a pair that states no patient or study is none of them."""
        parts: list[Composable] = []
        for name, values in (
            ("pair_id", exclude.pair_ids),
            ("patient_id", exclude.patient_ids),
            ("study_id", exclude.study_ids),
        ):
            values = frozenset(filter(_storable, values))
            if values:
                parts.append(
                    SQL("({0} IS NULL OR {0} <> ALL ({1}::text[]))").format(
                        Identifier(name), self._of(sorted(values))
                    )
                )
        cases = [case for case in exclude.cases if _storable(case[0] or "") and _storable(case[1])]
        if cases:
            patients, studies = zip(*cases, strict=True)
            parts.append(
                SQL(
                    "NOT EXISTS (SELECT FROM unnest({}::text[], {}::text[]) AS c (patient, study) "
                    "WHERE study = study_id AND patient IS NOT DISTINCT FROM patient_id)"
                ).format(self._of(list(patients)), self._of(list(studies)))
            )
        return parts

    def _filter(self, condition: Filter) -> Composable:
        if isinstance(condition, Comparison):
            return self._comparison(condition)
        joint = SQL(" AND " if condition.condition == "and" else " OR ")
        parts = joint.join(map(self._filter, condition.filters))
        return _not(parts) if condition.condition == "not" else SQL("({})").format(parts)

    def _comparison(self, condition: Comparison) -> Composable:
        key, values = condition.key, condition.values
        if condition.operator in ("!=", "nin"):
            return _not(self._equal(key, values))
        if condition.operator in ("==", "in"):
            return self._equal(key, values)
        value = values[0]
        known, kind = self._value(key), Literal(_kind(value))
        if isinstance(value, str):
            ordered = SQL("({} #>> '{{}}') COLLATE \"C\" {} {}")
            parameter: Any = value
        else:
            ordered, parameter = SQL("{} {} {}"), Jsonb(value)
        return SQL("(jsonb_typeof({}) = {} AND {})").format(
            known, kind, ordered.format(known, SQL(condition.operator), self._of(parameter))
        )

    def _equal(self, key: str, values: tuple[MetadataValue, ...]) -> Composable:
        if key in IDENTIFIERS:
            return SQL("{} = ANY ({}::text[])").format(
                Identifier(key), self._of([str(value) for value in values])
            )
        if len(values) == 1 and key not in _FIELDS:
            return SQL("attributes @> {}").format(self._of(Jsonb({key: values[0]})))
        return SQL("{} = ANY ({}::jsonb[])").format(
            self._value(key), self._of([Jsonb(value) for value in values])
        )

    def _value(self, key: str) -> Composable:
        if key in _FIELDS:
            return SQL("to_jsonb({})").format(Identifier(key))
        return SQL("(attributes -> {}::text)").format(self._of(key))


def _not(condition: Composable) -> Composed:
    """Return the opposite; what is unknown, for want of the key, counts as false."""
    return SQL("NOT coalesce({}, false)").format(condition)


def _comparable(condition: Filter) -> bool:
    """Return whether PostgreSQL takes the values, and compares their numbers as Python does."""
    if isinstance(condition, Comparison):
        return _storable(condition.key) and all(
            _storable(value) if isinstance(value, str) else abs(value) < _EXACT
            for value in condition.values
        )
    return all(map(_comparable, condition.filters))


def _storable(text: str) -> bool:
    """Return whether a text can be in the database at all."""
    return "\0" not in text and is_unicode(text)


def _kind(value: MetadataValue) -> str:
    """Return PostgreSQL's name of a value's kind."""
    if isinstance(value, str):
        return "string"
    return "boolean" if isinstance(value, bool) else "number"
