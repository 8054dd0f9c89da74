"""What is kept apart and kept here: tabs, patients, reports that hold HTML, the saved file."""

from __future__ import annotations

import re

import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.index import MRRAGIndex
from mrrag_llamaindex.serving.page.router import HEADERS
from mrrag_llamaindex.serving.schemas import AskOptions
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.serving.settings import Settings
from mrrag_llamaindex.store.pair import Pair
from tests.serving.conftest import running

pytestmark = pytest.mark.slow

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


def answers_of(service, corpus, numbers, question):
    found = []
    for number in numbers:
        image = QueryImage.read(corpus.images[number].read_bytes())
        result = service.ask(image, question, AskOptions())
        p = f"{result.answer.p_yes:.2f}", f"{result.answer.p_no:.2f}"
        found.append((p, [item.node.node_id for item in result.source_nodes]))
    return found


def seen(tab):
    _, yes, no = tab.side("steered")
    return (f"{yes:.2f}", f"{no:.2f}"), tab.cases()


@pytest.mark.parametrize("shared", [False, True], ids=["two contexts", "two tabs of one"])
def test_two_patients_never_cross(open_tab, browser, server, service, corpus, shared):
    context = browser.new_context() if shared else None
    tabs = [open_tab(server, context) for _ in range(2)]
    questions = [corpus.question, "Is there a nodule?", "Is there edema?"]
    expected = {question: answers_of(service, corpus, (0, 1), question) for question in questions}
    assert all(one[0] != one[1] for one in expected.values())  # a crossing would show
    for number, tab in enumerate(tabs):
        tab.film(corpus.images[number])
    films = [tab.levels() for tab in tabs]
    assert films[0] != films[1]
    for turn in range(9):
        question = questions[turn % len(questions)]
        for tab in tabs[:: 1 if turn % 2 else -1]:
            tab.ask(question, wait=False)
        for number, tab in enumerate(tabs):
            tab.answered()
            assert seen(tab) == expected[question][number]
            assert tab.levels() == films[number]
            assert tab.page.locator("#history li").count() == turn + 1
    if context is not None:
        context.close()


def test_a_films_samples_are_the_sessions_alone(open_tab, server, corpus):
    mine, other = open_tab(server), open_tab(server)
    mine.film(corpus.images[0])
    other.film(corpus.images[1])
    samples = [tab.fetch("/page/film/1", tab.session)["text"] for tab in (mine, other)]
    assert samples[0] != samples[1]
    assert mine.fetch("/page/film/1", "guessed")["status"] == 409
    assert mine.fetch("/page/film/2", mine.session)["status"] == 409


def test_a_session_ends_with_its_tab(open_tab, server, corpus):
    closed, other = open_tab(server), open_tab(server)
    closed.film(corpus.images[0])
    session = closed.session
    assert other.fetch("/page/film/1", session)["status"] == 200
    closed.page.goto("about:blank")
    for _ in range(50):
        if other.fetch("/page/film/1", session)["status"] == 409:
            return
        other.page.wait_for_timeout(100)
    pytest.fail("the session is still open")


@pytest.fixture(scope="module")
def hostile(service, corpus, tmp_path_factory):
    """A server over reports, ids and patients that hold HTML."""
    folder = tmp_path_factory.mktemp("hostile")
    pairs = [
        Pair(
            str(corpus.images[number]),
            f"No pleural effusion {HOSTILE}.",
            f'p{number}"><b>',
            f"<i>patient {number}</i>",
            {"study_id": f"'>{number}<u>"},
        )
        for number in range(3)
    ]
    index = MRRAGIndex.from_pairs(pairs, "phantom", folder / "store")
    with running(Service(index, service.llm), Settings()) as address:
        yield address


def test_html_in_a_report_or_a_question_is_text(open_tab, hostile, corpus):
    tab = open_tab(hostile)
    tab.film(corpus.images[3])
    tab.ask(f"Is there a pleural effusion? {HOSTILE}")
    card = tab.case(0)
    assert HOSTILE in card.inner_text()
    assert HOSTILE in tab.page.inner_text("#answer")
    card.get_by_role("button", name="Without this document").click()
    tab.page.wait_for_selector("[data-side=without]")
    card.get_by_role("button", name="Exclude study").click()
    tab.until(lambda: len(tab.cases()), 2)
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator("main script, main b, main i, main u").count() == 0


def test_a_script_that_got_in_would_not_run(tab):
    tab.page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = 'window.hacked = 1';
          document.body.append(script);
        }"""
    )
    assert tab.page.evaluate("window.hacked") is None
    assert "Content Security Policy" in tab.complaints.pop()


@pytest.mark.parametrize("path", ["/", "/page/static/page.js", "/page/film/1"])
def test_every_answer_of_the_page_has_its_headers(client, path):
    answer = client.get(path)
    for name in HEADERS.keys() - {"Cache-Control"}:
        assert answer.headers[name] == HEADERS[name]


def test_the_saved_case_opens_from_disk_without_a_network(
    open_tab, browser, server, corpus, tmp_path
):
    tab = open_tab(server)
    tab.film(corpus.images[0])
    tab.ask(corpus.question)
    with tab.page.expect_download() as download:
        tab.page.click("text=Save this case as a file")
    saved = tmp_path / "case.html"
    download.value.save_as(saved)
    text = saved.read_text("utf-8")
    assert "<script" not in text
    assert tab.session not in text
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", text) == []
    context = browser.new_context(offline=True)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(saved.as_uri())
    body = page.inner_text("body")
    assert "not a medical device" in body
    assert corpus.question in body
    assert all(name in body for name in tab.cases())
    widths = page.eval_on_selector_all("img", "all => all.map(x => x.naturalWidth)")
    assert len(widths) == 1 + len(tab.cases())
    assert all(widths)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_off_loopback_the_page_wants_a_token(open_tab, browser, service, corpus):
    with pytest.raises(InputError, match="token"):
        Settings(host="0.0.0.0")
    token = "a-token-of-the-tests"
    with running(service, Settings(token=token)) as address:
        tab = open_tab(address)
        assert tab.page.locator("#question").count() == 0
        tab.page.fill("#token", "another-token-entirely")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector("text=not the token")
        tab.page.fill("#token", token)
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector("#question")
        tab.page.wait_for_load_state()  # until then nothing listens
        tab.film(corpus.images[0])
        tab.ask(corpus.question)
        assert tab.cases()
        assert token not in tab.page.content()
