"""The films of one tab's question, in order: the images of one study of one patient.

A large file may arrive, and be decoded, long after a person has chosen another or taken it back.
So a tab counts its choices: the first films of a study come under a new number of the *study*, and
those added to it under the same one; and every file has a *key*, by which it can be taken back
before it is there. What belongs to an earlier study, or was taken back, is not put in.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.film import Film
from mrrag_llamaindex.images.query_image import QueryImage

if TYPE_CHECKING:
    from mrrag_llamaindex.serving.page.examples import Example

_KEYS_KEPT = 256
_LATER = "another film was chosen after this one"


class OtherFilm(InputError):  # noqa: N818 (a person chose otherwise, and nothing went wrong)
    """What a tab asks for is about other films than it holds by now."""


@dataclass(frozen=True, eq=False)
class HeldFilm:
    """One film of a question.

    Attributes
    ----------
    image : QueryImage
    key : int
        By which the tab names the file that it sent; 0 without one.
    number : int
        Of the film as it is read, in the order of reading, and never another's.
    example : Example or None
        Where it is one.
    """

    image: QueryImage
    key: int = 0
    number: int = 0
    example: Example | None = None


@dataclass(eq=False)
class Films:
    """What one tab asks about.

    Attributes
    ----------
    shown : tuple of HeldFilm
        In the order in which the model reads them.
    image : QueryImage or None
        All of them, as one question takes them.
    study : int
        Number of the study that they are of.
    revision : int
        Of this state; a tab shows none but the latest.
    """

    shown: tuple[HeldFilm, ...] = ()
    image: QueryImage | None = None
    study: int = 0
    revision: int = 0
    _begun: int = 0
    _read: int = 0
    _taken_back: deque[int] = field(default_factory=lambda: deque(maxlen=_KEYS_KEPT))
    _samples: tuple[int, Film] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def names(self) -> str:
        """The numbers of the films, as a form holds them: what a question asks about."""
        return ",".join(str(film.number) for film in self.shown)

    def now(self) -> Films:
        """Return this state, which does not change."""
        with self._lock:
            return copy(self)

    def asked(self, names: str | None = None) -> QueryImage | None:
        """Return what a question is about, None without a film.

        Raises
        ------
        OtherFilm
            If the tab shows other films than are held.
        """
        with self._lock:
            if names is not None and names != self.names:
                raise OtherFilm("another film than the one shown was chosen: try again")
            return self.image

    def begin(self, study: int | None = None) -> int:
        """Begin another study, whose films are about to be read; return its number.

        Raises
        ------
        OtherFilm
            If a later one was begun already.
        """
        with self._lock:
            study = self._begun + 1 if study is None else study
            if study <= self._begun:
                raise OtherFilm(_LATER)
            self._begun = study
            return study

    def choose(self, films: Sequence[HeldFilm], study: int | None = None) -> int:
        """Ask about these films, and no others.

        Parameters
        ----------
        films : sequence of HeldFilm
        study : int, optional
            What `begin` returned before they were read; default: begun now.

        Returns
        -------
        int
            Number of the first of them.

        Raises
        ------
        OtherFilm
            If another study was begun meanwhile, or all were taken back.
        ImageError
            As `QueryImage.study`. In either case nothing is changed.
        """
        study = self.begin() if study is None else study
        with self._lock:
            if study != self._begun:
                raise OtherFilm(_LATER)
            number = self._put((), films)
            self.study = study
            return number

    def add(self, films: Sequence[HeldFilm], study: int | None = None) -> int:
        """Ask about these, too; as `choose`, but that the study is the one that is held."""
        with self._lock:
            if study is not None and study != self.study:
                raise OtherFilm(_LATER)
            return self._put(self.shown, films)

    def replace(self, number: int, film: HeldFilm) -> int:
        """Put a film, read anew, in the place of another; return its number."""
        with self._lock:
            place = self._place(number)
            before, after = self.shown[:place], self.shown[place + 1 :]
            return self._put(before, [film], after)

    def remove(self, number: int | None = None, key: int | None = None) -> None:
        """Take a film away: by its number, or by its key, which may not have arrived yet."""
        with self._lock:
            if key is not None:
                self._taken_back.append(key)
            kept = [
                film
                for film in self.shown
                if film.number != number and (key is None or film.key != key)
            ]
            if len(kept) < len(self.shown):
                self._set(kept)

    def move(self, number: int) -> None:
        """Let a film change places with the one before it."""
        with self._lock:
            place = self._place(number)
            films = list(self.shown)
            if place:
                films[place - 1 : place + 1] = films[place], films[place - 1]
                self._set(films)

    def film(self, number: int) -> HeldFilm:
        """Return a film by its number.

        Raises
        ------
        OtherFilm
            If it is not held.
        """
        with self._lock:
            return self.shown[self._place(number)]

    def samples(self, number: int) -> Film:
        """Return the samples of a film; those asked for last are kept."""
        held = self.film(number)
        known = self._samples
        if known is not None and known[0] == number:
            return known[1]
        made = Film.of(held.image)
        held.image.release_pixels()  # they are decoded again for each question
        self._samples = number, made
        return made

    @property
    def memory(self) -> int:
        """Bytes of the samples."""
        return 0 if self._samples is None else self._samples[1].samples.nbytes

    def _place(self, number: int) -> int:
        for place, film in enumerate(self.shown):
            if film.number == number:
                return place
        raise OtherFilm("this tab shows another film by now: try again")

    def _put(
        self,
        before: Sequence[HeldFilm],
        films: Sequence[HeldFilm],
        after: Sequence[HeldFilm] = (),
    ) -> int:
        kept = [film for film in films if film.key not in self._taken_back]
        if not kept:
            raise OtherFilm("the film was taken back before it was there")
        first = self._read + 1
        numbered = [replace(film, number=place) for place, film in enumerate(kept, start=first)]
        self._set([*before, *numbered, *after])
        self._read += len(numbered)
        return first

    def _set(self, films: Sequence[HeldFilm]) -> None:
        # First of all: it refuses too many, and one that is there twice.
        image = QueryImage.study([film.image for film in films]) if films else None
        self.shown, self.image = tuple(films), image
        if self._samples is not None and self._samples[0] not in [one.number for one in films]:
            self._samples = None
        self.revision += 1
