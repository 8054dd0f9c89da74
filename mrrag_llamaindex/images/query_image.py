"""The image that a question is about: read once, carried to the end."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image

from mrrag_llamaindex.images.load import ImageSource, image_digest, read_bytes
from mrrag_llamaindex.images.options import ReadingOptions

_WHAT = "query image"


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
    """

    digest: str
    content: bytes | Image.Image = field(repr=False, compare=False)
    path: str | None = field(default=None, repr=False, compare=False)
    options: ReadingOptions = field(default_factory=ReadingOptions)

    @classmethod
    def read(
        cls, source: ImageSource | QueryImage, options: ReadingOptions | None = None
    ) -> QueryImage:
        """Read an image's bytes, or copy the pixels of an open one; nothing is opened later.

        Parameters
        ----------
        source : path, bytes, PIL.Image.Image or QueryImage
            One that has been read already is returned as it is.
        options : ReadingOptions, optional
            Window and frame of a file, or the window of an open image.

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
            copy = options.load(source, what=_WHAT)
            return cls(image_digest(source, what=_WHAT), copy, options=options)
        data = read_bytes(source, what=_WHAT)
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        return cls(image_digest(data), data, path, options)

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
        return self.options.load(self.content, what=_WHAT)

    @property
    def memory(self) -> int:
        """Bytes held now: the encoded file, and four per decoded pixel, as Pillow holds RGB."""
        if isinstance(self.content, Image.Image):
            return 4 * self.content.width * self.content.height
        decoded = self.__dict__.get("rgb")
        return len(self.content) + (4 * decoded.width * decoded.height if decoded else 0)

    def release_pixels(self) -> None:
        """Drop decoded pixels that can be decoded again from the file's bytes."""
        self.__dict__.pop("rgb", None)
