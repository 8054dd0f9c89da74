"""Images of a table: where they lie, and how many can be read."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mrrag_llamaindex.doctor.start.images import find_images, survey
from mrrag_llamaindex.doctor.start.sample import TableSample


def write(folder: Path, *names: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (20, 20), 90).save(folder / name)
    return [str(folder / name) for name in names]


def test_every_file_is_looked_up_and_some_are_decoded(tmp_path):
    good = write(tmp_path, "a.png", "b.jpg", "c.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(good[0]).read_bytes()[:45])
    film = tmp_path / "film.dcm"
    film.write_bytes(bytes(128) + b"DICM")
    paths = [*good, str(cut), str(film), str(tmp_path / "gone.png"), good[0]]
    found = survey(paths)
    assert (found.named, found.missing, found.opened, found.readable) == (6, 1, 5, 3)
    assert found.formats == {"PNG": 3, "JPEG": 1, "DICOM": 1}
    assert found.dicom == 1
    assert found.example == good[0]
    assert sum(found.unreadable.values()) == 2
    assert not any(str(tmp_path) in reason for reason in found.unreadable)
    assert survey(paths, most=2).opened == 2


def test_the_folder_of_the_images_is_found_below_the_table(tmp_path):
    write(tmp_path / "data" / "films", "1.png", "2.png")
    rows = tuple({"n": f"{n}.png", "alt": f"no/{n}.png", "text": "x"} for n in (1, 2))
    place = find_images(TableSample(tmp_path / "pairs.csv", rows), None, None)
    assert (place.column, place.folder, place.found) == ("n", tmp_path / "data" / "films", 2)
    named = find_images(TableSample(tmp_path / "pairs.csv", rows), None, "alt")
    assert (named.column, named.found) == ("alt", 0)
