"""What a person sees after a question is what the service answers, and each part can be asked."""

from __future__ import annotations

import json

import pytest

from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.serving.schemas import AskOptions, RetrievalOptions

pytestmark = pytest.mark.slow

TERMS = ("image_text", "image_image", "text_text")


def expected(service, corpus, number=0, **options):
    image = QueryImage.read(corpus.images[number].read_bytes())
    return service.ask(image, corpus.question, AskOptions(**options))


def ids(result):
    return [item.node.node_id for item in result.source_nodes]


def shown(tab, name):
    return pytest.approx(tab.side(name)[1:], abs=0.005 + 1e-6)


@pytest.fixture
def asked(tab, corpus):
    tab.film(corpus.images[0])
    tab.ask(corpus.question)
    return tab


def test_the_answer_is_the_services_with_its_cases(asked, service, corpus):
    result = expected(service, corpus, explain=True)
    assert asked.side("steered")[0] == result.text
    assert (result.answer.p_yes, result.answer.p_no) == shown(asked, "steered")
    assert asked.cases() == ids(result)
    for number, source in enumerate(result.sources()):
        card = asked.case(number).inner_text()
        assert f"{source['score']:.2f}" in card
        assert f"λ {source['lambda']:.2f}" in card
        points = source["influence"]["points"]
        assert (f"{points:+.1f} points" if abs(points) >= 0.05 else "0.0 points") in card
        assert "not excluded" in card


def test_the_first_sentence_says_what_the_answer_is(asked, service, corpus):
    result = expected(service, corpus)
    word = "yes" if result.answer.p_yes > result.answer.p_no else "no"
    assert f"The model says {word}" in asked.page.inner_text("[data-why]")


def test_steered_and_plain_stand_side_by_side(asked, service, corpus):
    plain = expected(service, corpus, ifa=False)
    assert asked.side("plain")[0] == plain.text
    assert (plain.answer.p_yes, plain.answer.p_no) == shown(asked, "plain")


def test_it_streams_documents_first_then_probabilities_then_words(tab, corpus):
    tab.film(corpus.images[0])
    tab.page.fill("#question", corpus.question)
    events = tab.page.evaluate(
        """async () => {
          const headers = {'X-MRRAG-Session': document.body.dataset.session};
          const body = new FormData(document.getElementById('ask'));
          const answer = await fetch('/page/ask', {method: 'POST', headers, body});
          return (await answer.text()).split('\\n\\n').filter(x => x);
        }"""
    )
    parsed = [json.loads(event.split("data: ", 1)[1]) for event in events]
    places = [one.get("target", one.get("side")) for one in parsed]
    assert places[:2] == ["cases", "answer"]
    assert places[-3:] == ["cases", "answer", "history"]
    assert set(places[2:-3]) == {"steered", "plain"}
    assert "p(yes)" in parsed[1]["html"]
    assert "…" not in parsed[1]["html"]  # both probabilities are known before the first word


def test_sliders_rank_again_at_once_and_leave_the_answer(asked, service, corpus):
    before = asked.side("steered")
    before_of = {name: number for number, name in enumerate(asked.cases(), start=1)}
    image = QueryImage.read(corpus.images[0].read_bytes())
    for alone in TERMS:
        weights = {term: float(term == alone) for term in TERMS}
        for term, weight in weights.items():
            asked.slide(term, weight)
        rows = service.retrieve(image, corpus.question, RetrievalOptions(weights=weights))
        asked.until(asked.cases, [row["pair_id"] for row in rows])
        for number, row in enumerate(rows):
            old = before_of.get(row["pair_id"])
            words = "new" if old is None else f"case {old} of the answer"
            asked.until(lambda n=number, words=words: words in asked.case(n).inner_text(), True)
        asked.until(lambda best=f"{rows[0]['score']:.2f}": best in asked.case(0).inner_text(), True)
    assert asked.side("steered") == before
    asked.page.click("text=Back to the server's weights")
    asked.until(asked.cases, ids(expected(service, corpus)))
    # The cards are those of the answer again.
    asked.until(lambda: "moved the answer" in asked.case(0).inner_text(), True)


def test_what_was_ranked_anew_can_be_asked(asked, service, corpus):
    for term in TERMS:
        asked.slide(term, float(term == "image_image"))
    asked.page.click("text=Ask again with these")
    asked.page.wait_for_selector(".stale", state="detached")
    asked.answered()
    weights = {term: float(term == "image_image") for term in TERMS}
    again = expected(service, corpus, weights=weights)
    assert asked.cases() == ids(again)
    assert (again.answer.p_yes, again.answer.p_no) == shown(asked, "steered")


def test_a_document_can_be_taken_away_and_put_back(asked, service, corpus):
    result = expected(service, corpus, explain=True)
    moved = result.answer.influence
    most = max(moved, key=lambda name: abs(moved[name].points))
    number = ids(result).index(most)
    hits = service.llm.engine.runner.prefixes.hits
    asked.case(number).get_by_role("button", name="Without this document").click()
    asked.page.wait_for_selector("[data-side=without]")
    assert service.llm.engine.runner.prefixes.hits > hits  # image and documents were not read again
    _, yes, no = asked.side("without")
    p = (result.answer.p_yes, result.answer.p_no)
    spoken = int(p[1] > p[0])
    assert 100 * (p[spoken] - (yes, no)[spoken]) == pytest.approx(moved[most].points, abs=0.6)
    assert "taken away by you" in asked.case(number).inner_text()
    asked.case(number).get_by_role("button", name="Put it back").click()
    asked.page.wait_for_selector("[data-side=without]", state="detached")


def test_an_excluded_patient_is_no_evidence_and_can_be_put_back(asked):
    first, *others = asked.cases()
    asked.case(0).get_by_role("button", name="Exclude patient").click()
    asked.until(lambda: first in asked.cases(), False)
    assert asked.cases()[: len(others)] == others
    asked.page.get_by_role("button", name="Put patient").click()
    asked.until(lambda: asked.cases()[0], first)


def test_attention_goes_to_numbered_cases_and_sums_to_all(asked):
    strip = asked.page.locator("[data-attention] svg[role=img]").first
    label = strip.get_attribute("aria-label")
    assert all(f"case {number} " in label for number in range(1, len(asked.cases()) + 1))
    widths = strip.evaluate(
        "s => [...s.querySelectorAll('rect')].map(r => parseFloat(r.getAttribute('width')))"
    )
    assert sum(widths) == pytest.approx(100, abs=0.1)


def test_an_earlier_question_of_the_session_comes_back(asked, corpus):
    before = asked.side("steered"), asked.cases()
    asked.film(corpus.images[1])
    asked.ask("Is there a nodule?")
    asked.page.locator("#history button", has_text=corpus.question).click()
    asked.page.wait_for_selector(f"#answer >> text={corpus.question}")
    asked.until(lambda: (asked.side("steered"), asked.cases()), before)


def test_the_page_says_what_it_is(tab):
    notice = tab.page.inner_text(".notice")
    assert "not a medical device" in notice
    assert "model and the towers of this server are synthetic (phantom)" in notice


def test_an_example_brings_its_film_and_question(tab):
    tab.page.locator(".examples button").first.click()
    tab.page.wait_for_selector("[data-film][data-ready]")
    assert tab.page.input_value("#question").endswith("?")
    assert "the truth is" in tab.page.inner_text("#viewer")
