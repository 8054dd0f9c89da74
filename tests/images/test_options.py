"""Window and frame: parsed from the command line, part of what identifies an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import ImageError, InputError
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.store.pair import Pair, fingerprint
from tests.images.making import encoded


def test_what_the_command_line_says_is_parsed() -> None:
    assert ReadingOptions.parse("-1000, 400", 3) == ReadingOptions((-1000.0, 400.0), 3)
    assert ReadingOptions.parse(None, None) == ReadingOptions()


@pytest.mark.parametrize("window", ["", "1", "1,2,3", "a,b", "5,5", "6,5", "nan,1", "0,inf"])
def test_a_window_that_is_none_names_the_option(window: str) -> None:
    with pytest.raises(InputError, match=r"^--window: "):
        ReadingOptions.parse(window, None)


def test_options_validate_themselves() -> None:
    for values in ({"window": (5, 1)}, {"frame": 0}):
        with pytest.raises(ImageError):
            ReadingOptions(**values)  # type: ignore[arg-type]


def test_loading_with_options() -> None:
    # 51..102: 68 -> 17 / 51 * 255 = 85
    image = ReadingOptions((51, 102)).load(Image.new("L", (16, 16), 68))
    assert image.getpixel((0, 0)) == (85, 85, 85)


@pytest.mark.parametrize("options", [ReadingOptions((0, 9)), ReadingOptions(frame=1)])
def test_another_reading_is_another_query_image_and_another_fingerprint(
    options: ReadingOptions,
) -> None:
    data = encoded(Image.new("L", (16, 16), 3))
    plain, other = QueryImage.read(data), QueryImage.read(data, options)
    assert plain != other
    assert plain.digest == other.digest
    assert QueryImage.read(other) is other
    pair = Pair(data, "No finding.", "a")
    assert fingerprint(pair, options) != fingerprint(pair)
    # Stores that were made before there were options stay as they are.
    assert fingerprint(pair, ReadingOptions()) == fingerprint(pair)


def test_a_query_image_is_decoded_with_its_options() -> None:
    frames: list[Any] = [Image.new("L", (16, 16), level) for level in (10, 20)]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    image = QueryImage.read(data, ReadingOptions((0, 40), frame=2))
    assert np.asarray(image.rgb).max() == 128  # 20 / 40 * 255 = 127.5
