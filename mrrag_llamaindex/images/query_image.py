"""The image that a question is about: read once, carried to the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.load import ImageSource, image_digest, read_bytes
from mrrag_llamaindex.images.options import ReadingOptions

_WHAT = "query image"
_MOST_KEPT = 8

T = TypeVar("T")


@dataclass(frozen=True)
class QueryImage:
    """A query image, bound to one question from retrieval to generation.

    Make it with `QueryImage.read`. What it was read from may change or vanish afterwards; the
    question is still about the pixels that its documents were retrieved with. Two are equal if
    their digests and options are.

    Attributes
    ----------
    digest : str
        See `image_digest`: of the file's bytes, or of an open image's pixels.
    content : bytes or PIL.Image.Image
        The encoded file, or an own copy (RGB) of an image that was given open.
    path : str or None
        The file that it was read from, by which a further step of the same question recognises it
        without reading the file again. Never shown.
    options : ReadingOptions
        Window and frame by which the file is decoded.
    what : str
        What error messages call it.
    others : tuple of QueryImage
        Further images of the same study, in order; see `study`.
    """

    digest: str
    content: bytes | Image.Image = field(repr=False, compare=False)
    path: str | None = field(default=None, repr=False, compare=False)
    options: ReadingOptions = field(default_factory=ReadingOptions)
    what: str = field(default=_WHAT, repr=False, compare=False)
    others: tuple[QueryImage, ...] = ()

    @classmethod
    def read(
        cls,
        source: ImageSource | QueryImage,
        options: ReadingOptions | None = None,
        *,
        what: str = _WHAT,
    ) -> QueryImage:
        """Read an image's bytes, or copy the pixels of an open one; nothing is opened later.

        Parameters
        ----------
        source : path, bytes, PIL.Image.Image or QueryImage
            One that has been read already is returned as it is.
        options : ReadingOptions, optional
            Window and frame of a file, or the window of an open image.
        what : str
            What error messages call it.

        Raises
        ------
        ImageError
            If it is missing, empty or larger than `defaults.MAX_IMAGE_BYTES`, or an open image
            that `load_image` refuses. A file is decoded, and refused, at the first use of `rgb`.
        """
        if isinstance(source, QueryImage):
            return source
        options = options or ReadingOptions()
        if isinstance(source, Image.Image):
            copy = options.load(source, what=what)
            return cls(image_digest(source, what=what), copy, options=options, what=what)
        data = read_bytes(source, what=what)
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        return cls(image_digest(data), data, path, options, what)

    @classmethod
    def study(cls, sources: Sequence[ImageSource | QueryImage]) -> QueryImage:
        """Read several images of one patient that one question is about, in order.

        Parameters
        ----------
        sources : sequence of path, bytes, PIL.Image.Image or QueryImage
            As for `read`: frontal and lateral, or prior and current.

        Returns
        -------
        QueryImage
            The first, with the `others` behind it, and a digest of all of them. Of one source it
            is that image.

        Raises
        ------
        ImageError
            If there is none, there are more than `defaults.MAX_QUERY_IMAGES`, or one of them was
            given twice; and as `read`.
        """
        images = [view for source in sources for view in cls.read(source).views]
        if not images:
            raise ImageError("no image was given with the question")
        if len(images) == 1:
            return images[0]
        require_few(len(images))
        if len(set(images)) < len(images):
            raise ImageError("the same image was given twice with one question")
        first, *others = images
        joined = hashlib.sha256("".join(image.digest for image in images).encode()).hexdigest()
        # No path: a step that names the first file alone asks about another thing.
        return _Study(joined, first.content, None, first.options, first.what, tuple(others), first)

    @property
    def views(self) -> tuple[QueryImage, ...]:
        """Every image of the question by itself, in order."""
        return (self,)

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """Every decoded image of the question, see `rgb`."""
        return tuple(view.rgb for view in self.views)

    @cached_property
    def rgb(self) -> Image.Image:
        """The decoded image, mode RGB, shared by all who read it: it must not be changed.

        Raises
        ------
        ImageError
            As `load_image`.
        """
        if isinstance(self.content, Image.Image):
            return self.content
        return self.options.load(self.content, what=self.what)

    @property
    def memory(self) -> int:
        """Bytes held now: the encoded file, and four per decoded pixel, as Pillow holds RGB."""
        if isinstance(self.content, Image.Image):
            return 4 * self.content.width * self.content.height
        decoded = self.__dict__.get("rgb")
        return len(self.content) + (4 * decoded.width * decoded.height if decoded else 0)

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make()`` returns, or returned before under the same key.

        The last few are held as long as the image is: its vectors, for example, while it is asked
        about again and again.
        """
        known = self.__dict__.get("_kept", {})
        if key not in known:
            # A new dictionary each time, so that threads need not wait for each other.
            known = {**dict(list(known.items())[1 - _MOST_KEPT :]), key: make()}
            self.__dict__["_kept"] = known
        value: T = known[key]
        return value

    def release_pixels(self) -> None:
        """Drop decoded pixels that can be decoded again from the file's bytes."""
        self.__dict__.pop("rgb", None)


@dataclass(frozen=True)
class _Study(QueryImage):
    """Several images; what is asked of one image is answered by the first of them."""

    first: QueryImage | None = field(default=None, repr=False, compare=False)

    @property
    def views(self) -> tuple[QueryImage, ...]:
        return () if self.first is None else (self.first, *self.others)

    @property
    def rgb(self) -> Image.Image:  # not kept here, but by the first
        return self.views[0].rgb

    @property
    def memory(self) -> int:
        return sum(view.memory for view in self.views)

    def release_pixels(self) -> None:
        for view in self.views:
            view.release_pixels()


def require_few(count: int) -> None:
    """Check the number of images of one question, before they are read.

    Raises
    ------
    ImageError
        If there are more than `defaults.MAX_QUERY_IMAGES`.
    """
    if count > defaults.MAX_QUERY_IMAGES:
        raise ImageError(
            f"{count} images were given with one question (limit {defaults.MAX_QUERY_IMAGES}): "
            "give those of one study, and slices of a volume not at all"
        )
