"""The contact sheet shows images as they were read, in order, evenly from any number."""

from __future__ import annotations

import stat

import pytest
from PIL import Image

from mrrag_llamaindex.images.contact_sheet import MAX_THUMBNAILS, SIDE, ContactSheet

GAP, LABEL = 6, 14


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (2 * SIDE, SIDE), (level,) * 3)


def centre(page: Image.Image, column: int, row: int) -> int:
    left = GAP + column * (SIDE + GAP)
    top = GAP + row * (SIDE + LABEL + GAP)
    return page.getpixel((left + SIDE // 2, top + SIDE // 2))[0]


def test_images_stand_in_order_with_their_grey_levels_and_proportions(tmp_path) -> None:
    sheet = ContactSheet()
    for number in range(5):
        sheet.add(f"patient\n{number} \u65e5", grey(40 * number))
    page = sheet.page()
    assert page.width == 3 * (SIDE + GAP) + GAP  # five images: three columns, two rows
    assert [centre(page, n % 3, n // 3) for n in range(5)] == [0, 40, 80, 120, 160]
    # Twice as wide as high: above it is the page.
    assert page.getpixel((GAP + SIDE // 2, GAP + 10)) == (40, 40, 60)
    sheet.save(tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").size == page.size
    assert stat.S_IMODE((tmp_path / "page.png").stat().st_mode) == 0o600


@pytest.mark.parametrize(("count", "step"), [(96, 1), (97, 2), (500, 8)])
def test_of_many_images_every_nth_is_shown(count, step) -> None:
    sheet = ContactSheet()
    for number in range(count):
        sheet.add(str(number), Image.new("RGB", (16, 16), (number % 256,) * 3))
    assert sheet.images == count
    assert len(sheet) == -(-count // step) <= MAX_THUMBNAILS
    page = sheet.page()
    columns = (page.width - GAP) // (SIDE + GAP)
    expected = list(range(0, count, step))
    for place in (0, 1, len(sheet) - 1):
        assert centre(page, place % columns, place // columns) == expected[place] % 256
