"""The viewer: window, level, zoom and invert change what is drawn, at the depth of the file."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.images.query_image import QueryImage
from tests.images.dicom.making import dicom, saved
from tests.images.making import encoded

pytestmark = pytest.mark.slow

COLUMNS = 256


def ramp(first=1000, step=16):
    """A DICOM file of 12 bits: grey rises from the left to the right."""
    row = first + step * np.arange(COLUMNS, dtype=np.uint16)
    return saved(dicom(np.tile(row, (COLUMNS, 1)), bits=16))


@pytest.fixture
def film(tab):
    tab.film(name="ramp.dcm", content=ramp())
    return tab


def drag(tab, dx, dy):
    box = tab.page.locator(".viewer canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.move(x, y)
    tab.page.mouse.down()
    tab.page.mouse.move(x + dx, y + dy, steps=4)
    tab.page.mouse.up()
    tab.drawn()


def window(tab):
    return [float(tab.page.input_value(f"[data-{name}]")) for name in ("level", "width")]


def press(tab, keys):
    tab.page.focus(".viewer canvas")
    for key in keys.split():
        tab.page.keyboard.press(key)
    tab.drawn()


def inside(levels):
    """Levels of the film, without the black beside it."""
    middle = len(levels) // 2
    return levels[middle - 60 : middle + 60]


def test_a_dicom_film_of_16_bits_is_shown_as_the_model_reads_it(film):
    levels = inside(film.levels())
    assert levels == sorted(levels)
    assert levels[-1] - levels[0] > 60
    assert "16 bits of grey" in film.page.inner_text("#viewer")


def test_a_narrow_window_shows_steps_that_8_bits_do_not_hold(tab):
    # One grey value per column of 65,536: at 8 bits, all of them are one level.
    steps = (20_000 + np.arange(COLUMNS) // 8).astype(np.uint16)
    values = np.tile(steps, (COLUMNS, 1))
    values[0], values[1] = 0, 65_535
    tab.film(content=encoded_16(values))
    assert len(set(inside(tab.levels()))) == 1
    tab.page.fill("[data-level]", "20016")
    tab.page.fill("[data-width]", "32")
    tab.drawn()
    assert len(set(inside(tab.levels()))) > 6


def encoded_16(values):
    from PIL import Image

    return encoded(Image.fromarray(values))


def test_dragging_moves_width_and_level(film):
    before, (level, width) = film.levels(), window(film)
    drag(film, 60, 0)
    wider = window(film)
    assert wider[1] > width
    assert wider[0] == pytest.approx(level, abs=2)
    assert inside(film.levels()) != inside(before)
    drag(film, 0, 60)
    assert window(film)[0] > level
    assert window(film)[1] == pytest.approx(wider[1], abs=2)


def test_keys_do_what_the_mouse_does(film):
    before, (level, width) = inside(film.levels()), window(film)
    press(film, "ArrowRight ArrowRight ArrowUp")
    assert window(film)[1] > width
    assert window(film)[0] > level
    press(film, "r")
    assert window(film) == [level, width]
    assert inside(film.levels()) == before
    press(film, "i")
    assert inside(film.levels()) == pytest.approx([255 - value for value in before], abs=1)
    press(film, "i + +")
    steeper = inside(film.levels())
    assert steeper[-1] - steeper[0] < before[-1] - before[0]  # zoomed in: less of the ramp
    press(film, "0 Shift+ArrowRight")
    assert inside(film.levels()) != before
    assert window(film) == [level, width]


def test_presets_are_windows_and_say_which_is_in_use(film):
    names = film.page.eval_on_selector_all("[data-preset]", "a => a.map(x => x.dataset.preset)")
    assert names[:2] == ["read", "full"]
    seen = set()
    for number, name in enumerate(names, start=1):
        film.page.click(f"[data-preset={name}]")
        film.drawn()
        pressed = film.page.get_attribute(f"[data-preset={name}]", "aria-pressed")
        assert pressed == "true"
        seen.add(tuple(film.levels()))
        film.page.click("[data-do=invert]")
        press(film, str(number))
    assert len(seen) >= 3


def test_the_model_reads_the_window_that_a_person_sets(tab, service, corpus):
    tab.film(corpus.images[0])
    tab.page.fill("[data-level]", "110")
    tab.page.fill("[data-width]", "60")
    tab.page.click("text=model reads this window")
    tab.page.wait_for_selector('[data-film*="film/2"][data-ready]')
    tab.drawn()
    assert window(tab) == [110, 60]
    tab.ask(corpus.question)
    reading = ReadingOptions(window=(80, 140))
    image = QueryImage.read(corpus.images[0].read_bytes(), reading)
    result = service.ask(image, corpus.question)
    p = result.answer.p_yes, result.answer.p_no
    assert tab.side("steered")[1:] == pytest.approx(p, abs=0.006)
    assert tab.cases() == [item.node.node_id for item in result.source_nodes]


def test_the_wheel_zooms_and_a_double_click_resets(film):
    before = film.levels()
    box = film.page.locator(".viewer canvas").bounding_box()
    film.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    film.page.mouse.wheel(0, -300)
    film.drawn()
    assert film.levels() != before
    film.page.locator(".viewer canvas").dblclick()
    film.drawn()
    assert film.levels() == before


DROP = """files => {
  const carried = new DataTransfer();
  for (const [name, bytes] of files) carried.items.add(new File([new Uint8Array(bytes)], name));
  const options = {dataTransfer: carried, bubbles: true, cancelable: true};
  document.querySelector('main').dispatchEvent(new DragEvent('drop', options));
}"""


def test_a_film_is_dropped_anywhere_and_two_are_refused_by_a_model_that_reads_one(tab, corpus):
    files = [[path.name, list(path.read_bytes())] for path in corpus.images[:2]]
    tab.page.evaluate(DROP, files[:1])
    tab.page.wait_for_selector("[data-film][data-ready]")
    tab.drawn()
    dropped = tab.levels()
    tab.page.evaluate(DROP, files)
    assert "2 images were given with one question, and this model reads one" in tab.alert()
    assert tab.page.locator("#alert").bounding_box()["y"] < tab.page.viewport_size["height"]
    assert tab.levels() == dropped
    assert tab.page.locator("#add, #films li").count() == 0  # what cannot be is not offered
    tab.film(corpus.images[0])
    assert tab.levels() == dropped


def test_of_several_frames_one_is_asked_for_and_shown(tab):
    frames = np.stack([np.full((64, 64), level, np.uint8) for level in (10, 120, 230)])
    content = saved(dicom(frames, NumberOfFrames=3))
    tab.page.set_input_files("#file", {"name": "x.dcm", "mimeType": "", "buffer": content})
    assert "frame" in tab.alert()
    tab.page.fill("#frame", "2")
    tab.film(name="x.dcm", content=content)
    assert "120" in probe(tab)


def probe(tab):
    """What the viewer says of the pixel under the pointer, in the middle."""
    box = tab.page.locator(".viewer canvas").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    return tab.page.inner_text("[data-readout]").partition(":")[2]


def test_inverted_polarity_is_drawn_as_a_person_expects(tab):
    row = np.tile(16 * np.arange(COLUMNS, dtype=np.uint16), (COLUMNS, 1))
    tab.film(name="x.dcm", content=saved(dicom(row, "MONOCHROME1", 16)))
    levels = inside(tab.levels())
    assert levels[0] > levels[-1]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"these are no pixels", "notes.txt"),
        (b"", "empty.png"),
        (ramp()[:900], "cut.dcm"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "broken.png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg"),
    ],
    ids=["text", "empty", "cut DICOM", "broken PNG", "SVG"],
)
def test_a_bad_file_is_told_and_the_film_before_it_stays(film, content, name):
    before = film.levels()
    film.page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
    told = film.alert()
    assert told.startswith("query image:")
    assert name not in told
    assert film.levels() == before
    press(film, "i")
    assert film.levels() != before
