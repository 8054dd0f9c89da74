"""Several films of one study on the page: all are shown, asked about, named and saved."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.serving.schemas import AskOptions
from mrrag_llamaindex.serving.settings import Settings
from tests.images.dicom.making import dicom, saved
from tests.serving.conftest import running
from tests.serving.page.test_film import drag, inside, window
from tests.serving.page.test_people import CONTRAST, MEASURE, tab_to

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def readers(reader):
    with running(reader, Settings()) as address:
        yield address


@pytest.fixture
def tab(open_tab, readers):
    return open_tab(readers)


def choose(tab, *paths, into="#file"):
    tab.page.set_input_files(into, [str(path) for path in paths])
    tab.until(lambda: tab.page.locator("#coming li").count(), 0)
    tab.page.wait_for_selector("[data-film][data-ready]")
    tab.drawn()


def names(tab):
    return tab.page.locator("#films .pick").all_inner_texts()


def film_numbers(tab):
    return tab.page.input_value("input[name=film]")


def act(tab, name, place):
    """Press a film's button, and wait for what the server says to it."""
    revision = tab.page.get_attribute("#films", "data-revision")
    with tab.page.expect_response(f"**/page/{name}"):
        tab.page.locator(f"#films li >> nth={place} >> [data-act={name}]").click()
    if name != "show":
        tab.until(lambda: tab.page.get_attribute("#films", "data-revision") != revision, True)
    tab.drawn()


def pictures(tab):
    return tab.page.eval_on_selector_all("#films img", "all => all.map(x => x.src)")


def asked(tab, reader, corpus, paths, **options):
    """Ask, and check that all of these films were searched with and read."""
    tab.page.fill("#k", "2")
    tab.ask(corpus.question)
    study = QueryImage.study([path.read_bytes() for path in paths])
    result = reader.ask(study, corpus.question, AskOptions(k=2, **options))
    assert tab.cases() == [item.node.node_id for item in result.source_nodes]
    scores = [f"{item.score:.2f}" for item in result.source_nodes]
    shown = tab.page.locator("#cases dd.number.total").all_inner_texts()
    assert shown == scores
    answer = tab.page.inner_text("#answer")
    assert f"{result.answer.prompt_tokens} tokens read" in answer
    return answer


def test_all_films_are_asked_about_named_and_saved(tab, reader, corpus, browser, tmp_path):
    first, second, third, _ = corpus.images
    choose(tab, first)
    assert names(tab) == []  # a single film looks as ever
    alone = asked(tab, reader, corpus, [first])
    assert "films" not in alone
    choose(tab, first, second)
    assert names(tab) == ["film 1", "film 2"]
    assert "About 2 films" in asked(tab, reader, corpus, [first, second])
    assert "2 films" in tab.page.locator("#history button").first.inner_text()
    choose(tab, third, into="#another")
    assert names(tab) == ["film 1", "film 2", "film 3"]
    assert tab.page.locator("#films [aria-pressed=true]").inner_text() == "film 3"
    assert tab.page.locator("[data-other-film]").is_visible()
    tab.page.select_option("#combine", "max")
    answer = asked(tab, reader, corpus, [first, second, third], combine_images="max")
    assert "the highest over them" in answer
    with tab.page.expect_download() as download:
        tab.page.click("text=Save this case as a file")
    download.value.save_as(tmp_path / "case.html")
    page = browser.new_page()
    page.goto((tmp_path / "case.html").as_uri())
    assert page.locator("figure").all_inner_texts() == ["film 1", "film 2", "film 3"]
    widths = page.eval_on_selector_all("figure img", "all => all.map(x => x.naturalWidth)")
    assert all(widths)
    page.close()
    choose(tab, first)
    assert not tab.page.locator("#combine").is_visible()
    assert names(tab) == []


def test_every_film_has_its_own_window(tab, corpus, tmp_path):
    import numpy as np

    columns = 1000 + 16 * np.arange(256, dtype=np.uint16)
    file = tmp_path / "lateral.dcm"
    file.write_bytes(saved(dicom(np.tile(columns, (256, 1)), bits=16, ViewPosition="LL")))
    choose(tab, corpus.images[0], file)
    assert names(tab) == ["film 1", "film 2 · LL"]
    plain = tab.levels()
    act(tab, "show", 1)
    tab.page.wait_for_selector("[data-film][data-ready]")
    deep = inside(tab.levels())
    drag(tab, 60, 30)
    moved, levels = window(tab), inside(tab.levels())
    assert levels != deep
    act(tab, "show", 0)
    tab.page.wait_for_selector("[data-film*='film/1'][data-ready]")
    tab.drawn()
    assert tab.levels() == plain
    act(tab, "show", 1)
    tab.page.wait_for_selector("[data-film*='film/2'][data-ready]")
    tab.drawn()
    assert (window(tab), inside(tab.levels())) == (moved, levels)
    tab.page.click("text=model reads this window")
    tab.page.wait_for_selector("[data-film*='film/3'][data-ready]")
    assert film_numbers(tab) == "1,3"
    assert "window" in tab.page.locator("#films li").nth(1).inner_text()


def test_films_are_moved_and_taken_away_by_keyboard(tab, corpus):
    choose(tab, *corpus.images[:3])
    before = pictures(tab)
    tab_to(tab, "#films li:nth-child(3) [data-act=move]")
    tab.page.keyboard.press("Enter")
    tab.until(lambda: pictures(tab), [before[0], before[2], before[1]])
    focused = "document.activeElement.closest('#films li')?.querySelector('img').src"
    assert tab.page.evaluate(focused) == before[2]
    for left in (2, 1):
        tab_to(tab, "#films [data-act=remove]")
        tab.page.keyboard.press("Enter")
        tab.until(lambda: len(pictures(tab)), left if left > 1 else 0)
        assert "taken away" in tab.page.inner_text("#films-said")
    assert tab.page.evaluate("document.activeElement.tagName") == "CANVAS"
    assert film_numbers(tab) == "1"


def test_what_comes_late_changes_nothing(tab, reader, corpus):
    first, second, third, fourth = corpus.images
    uploads = []
    tab.page.route("**/page/film", lambda route: uploads.append(route))

    def chosen(*paths, into="#file"):
        count = len(uploads)
        tab.page.set_input_files(into, [str(path) for path in paths])
        tab.until(lambda: len(uploads) > count, True)
        return uploads[-1]

    early = chosen(first, fourth)
    chosen(second).continue_()
    tab.page.wait_for_selector("[data-film][data-ready]")
    shown = film_numbers(tab)
    reply = tab.page.request.post(  # as if the tab had not given it up
        f"{tab.address}/page/film",
        headers={k: v for k, v in early.request.headers.items() if "length" not in k},
        data=early.request.post_data_buffer,
    )
    assert reply.status == 409
    early.abort()
    # Of two films on their way one is taken back; meanwhile nothing is asked.
    added = chosen(third, fourth, into="#another")
    tab.ask(corpus.question, wait=False)
    assert "still being read" in tab.alert()
    with tab.page.expect_response("**/page/remove"):
        tab.page.get_by_role("button", name=f"Cancel {fourth.name}").click()
    added.continue_()
    tab.until(lambda: film_numbers(tab), f"{shown},{int(shown) + 1}")
    # One that the server has already, but the tab does not know of.
    added = chosen(fourth, into="#another")
    answer = added.fetch()
    with tab.page.expect_response("**/page/remove"):
        tab.page.get_by_role("button", name="Cancel").click()
    added.fulfill(response=answer)
    tab.until(lambda: film_numbers(tab), f"{shown},{int(shown) + 1}")
    tab.page.unroute("**/page/film")
    asked(tab, reader, corpus, [second, third])


def test_too_many_films_and_too_large_ones_are_refused_in_words(open_tab, reader, corpus):
    with running(reader, Settings(upload_bytes=200_000)) as address:
        tab = open_tab(address)
        choose(tab, *corpus.images[:2])
        for files, says in (
            ([(f"{n}.png", b"no image") for n in range(9)], "9 images were given"),
            ([("large.png", bytes(300_000))], "this file has 0.3 MiB, and this server takes 0.2"),
            ([("a.png", corpus.images[2].read_bytes()), ("b.png", b"?")], "file 2 of 2: "),
        ):
            content = [{"name": n, "mimeType": "", "buffer": data} for n, data in files]
            tab.page.set_input_files("#file", content)
            assert says in tab.alert()
            assert film_numbers(tab) == "1,2"
        copy = {"name": "c.png", "mimeType": "", "buffer": corpus.images[0].read_bytes()}
        tab.page.set_input_files("#another", [copy])
        tab.until(lambda: "twice" in tab.alert(), True)
        assert names(tab) == ["film 1", "film 2"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_several_films_on_a_small_screen_can_be_read_and_named(open_tab, readers, corpus, scheme):
    tab = open_tab(readers, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    choose(tab, *corpus.images)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in (".strip .pick[aria-pressed=true]", ".strip .pick[aria-pressed=false]"):
        contrast, _ = tab.page.locator(selector).first.evaluate(MEASURE)
        assert contrast >= CONTRAST, selector
    labels = tab.page.eval_on_selector_all(
        "#films button", "all => all.map(x => x.getAttribute('aria-label') ?? x.textContent.trim())"
    )
    assert len(set(labels)) == len(labels) == 11
    assert "Move film 2 before film 1" in labels
