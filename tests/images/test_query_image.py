"""One image, read once: what a question was asked about cannot change under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.load import image_digest, load_image
from mrrag_llamaindex.images.query_image import QueryImage


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    picture().save(tmp_path / "Miller^Anna.png")
    return tmp_path / "Miller^Anna.png"


def same(image: QueryImage, expected: Image.Image) -> bool:
    return image.rgb.tobytes() == expected.convert("RGB").tobytes()


def test_digest_and_pixels_are_those_of_the_two_readers(path: Path) -> None:
    for source in (path, str(path), path.read_bytes(), picture(), picture().convert("L")):
        image = QueryImage.read(source)
        assert image.digest == image_digest(source)
        assert same(image, load_image(source))


def test_a_file_that_is_replaced_or_deleted_later_does_not_matter(path: Path) -> None:
    image = QueryImage.read(path)
    picture(1).save(path)
    assert QueryImage.read(path) != image
    path.unlink()
    assert same(image, picture())


def test_an_open_image_that_is_changed_later_does_not_matter() -> None:
    source = picture()
    image = QueryImage.read(source)
    source.paste((0, 0, 0), (0, 0, 30, 40))
    assert same(image, picture())


def test_equal_are_those_of_one_digest_wherever_they_come_from(path: Path) -> None:
    assert {QueryImage.read(path), QueryImage.read(path.read_bytes())} == {QueryImage.read(path)}


def test_the_path_is_never_shown(path: Path) -> None:
    assert "Miller" not in repr(QueryImage.read(path))
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"^query image: ") as caught:
        _ = QueryImage.read(path).rgb
    assert "Miller" not in str(caught.value)


@pytest.mark.parametrize("source", [b"", "nowhere/a.png", 7])
def test_what_cannot_be_read_is_refused_at_once(source: object) -> None:
    with pytest.raises(ImageError, match=r"^query image: "):
        QueryImage.read(source)  # type: ignore[arg-type]


def test_a_file_larger_than_any_image_is_refused_unread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "MAX_IMAGE_BYTES", path.stat().st_size - 1)
    with pytest.raises(ImageError, match="larger than any image"):
        QueryImage.read(path)


def test_memory_counts_the_file_and_the_decoded_pixels(path: Path) -> None:
    image = QueryImage.read(path)
    size = path.stat().st_size
    assert image.memory == size
    assert image.rgb is image.rgb
    assert image.memory == size + 4 * 30 * 40
    image.release_pixels()
    assert image.memory == size
    assert same(image, picture())


def test_an_open_image_keeps_its_pixels_and_counts_them_once() -> None:
    image = QueryImage.read(picture())
    assert image.rgb is image.rgb
    image.release_pixels()
    assert image.memory == 4 * 30 * 40
    assert same(image, picture())


def test_several_images_are_one_question_in_their_order(path: Path) -> None:
    sources = [path.read_bytes(), picture(1), picture(2)]
    study = QueryImage.study(sources)
    assert [view.rgb.tobytes() for view in study.views] == [
        QueryImage.read(source).rgb.tobytes() for source in sources
    ]
    assert study.pictures == tuple(view.rgb for view in study.views)
    assert study == QueryImage.study(sources)
    others = [QueryImage.study(sources[::-1]), QueryImage.study(sources[:2]), study.views[0]]
    assert len({study, *others}) == 4
    assert len({study.digest, *(one.digest for one in others)}) == 4
    assert QueryImage.study(sources[:1]) == study.views[0]
    assert QueryImage.study([study, picture(3)]).views[:3] == study.views


def test_the_memory_of_several_images_is_counted_and_let_go(path: Path) -> None:
    study = QueryImage.study([path, picture(1)])
    before = study.memory
    assert study.pictures
    assert study.memory == before + 4 * 30 * 40
    study.release_pixels()
    assert study.memory == before


def test_images_that_are_no_study_are_refused(path: Path) -> None:
    with pytest.raises(ImageError, match="twice"):
        QueryImage.study([path, path.read_bytes()])
    with pytest.raises(ImageError, match="no image"):
        QueryImage.study([])
    many = [picture(seed) for seed in range(defaults.MAX_QUERY_IMAGES + 1)]
    with pytest.raises(ImageError, match="9 images were given"):
        QueryImage.study(many)
