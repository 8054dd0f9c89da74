"""The parts of the page that need no browser: sessions, sentences, the same prompt again."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from mrrag_llamaindex.errors import ImageError, InputError, MRRAGError
from mrrag_llamaindex.generation.attention import AttentionShares, LayerShares, attention_shares
from mrrag_llamaindex.generation.explanation import without_documents
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.answers.again import request_of
from mrrag_llamaindex.integration.index import MRRAGIndex
from mrrag_llamaindex.mcr.blocks import Blocks
from mrrag_llamaindex.mcr.weights import ALL_TERMS
from mrrag_llamaindex.serving.page import rendering, turns, views
from mrrag_llamaindex.serving.page.films import Films, HeldFilm, OtherFilm
from mrrag_llamaindex.serving.page.sessions import MOST_TURNS, Session, Sessions
from mrrag_llamaindex.serving.schemas import AskOptions, RetrievalOptions
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.store.pair import Pair
from mrrag_llamaindex.towers.loading import load_towers


@pytest.fixture
def image(corpus):
    return QueryImage.read(corpus.images[0].read_bytes())


def test_sessions_are_bounded_and_the_oldest_goes():
    sessions = Sessions(most=2)
    first, second = sessions.open(), sessions.open()
    assert sessions.get(first.session_id) is first  # used last
    third = sessions.open()
    assert len(sessions) == 2
    assert sessions.get(second.session_id) is None
    assert sessions.get(third.session_id) is third


def test_whoever_only_looks_displaces_nobodys_film(image):
    sessions = Sessions(most=3)
    mine = sessions.open()
    mine.films.choose([HeldFilm(image)])
    for _ in range(10):
        last = sessions.open()
    assert sessions.get(mine.session_id) is mine
    assert sessions.get(last.session_id) is last
    assert len(sessions) == 3


def test_a_session_left_alone_is_forgotten():
    sessions = Sessions(idle_seconds=0.0)
    opened = sessions.open()
    opened.used -= 1
    assert sessions.get(opened.session_id) is None


def test_films_together_are_bounded_and_the_one_in_use_stays(image):
    sessions = Sessions(most_bytes=1)
    first = sessions.open()
    first.films.choose([HeldFilm(image)])
    assert sessions.get(first.session_id) is first
    second = sessions.open()
    assert sessions.get(first.session_id) is None
    assert sessions.get(second.session_id) is second


@pytest.fixture
def held(corpus):
    return [
        HeldFilm(QueryImage.read(path.read_bytes()), key)
        for key, path in enumerate(corpus.images, start=1)
    ]


def test_the_films_chosen_last_are_shown_however_long_others_take_to_read(held):
    films = Films()
    early, late = films.begin(), films.begin()
    films.choose(held[1:3], late)
    for arrives in (films.choose, films.add):
        with pytest.raises(OtherFilm, match="another film was chosen"):
            arrives(held[:1], early)
    with pytest.raises(OtherFilm):
        films.begin(early)
    assert [film.image for film in films.shown] == [film.image for film in held[1:3]]
    assert films.image == QueryImage.study([film.image for film in held[1:3]])
    assert films.names == "1,2"


def test_a_film_taken_back_before_it_is_there_never_comes(held):
    films = Films()
    study = films.begin()
    films.remove(key=2)
    films.choose(held[:2], study)
    assert [film.key for film in films.shown] == [1]
    films.add(held[2:3], study)
    films.remove(key=3)  # it was there already
    assert films.image is held[0].image
    before = films.revision
    later = films.begin()
    films.remove(key=4)
    with pytest.raises(OtherFilm, match="taken back"):
        films.choose(held[3:], later)
    assert (films.image, films.revision) == (held[0].image, before)


def test_films_change_places_and_are_read_anew_in_their_place(held):
    films = Films()
    films.choose(held[:3])
    films.move(3)
    assert films.names == "1,3,2"
    number = films.replace(3, held[3])
    assert films.names == f"1,{number},2"
    for gone in (3, 99):
        with pytest.raises(OtherFilm):
            films.replace(gone, held[2])
    with pytest.raises(ImageError, match="twice"):
        films.add(held[:1])
    assert films.names == f"1,{number},2"


def test_a_film_of_several_questions_takes_its_memory_once(held):
    session = Session()
    session.films.choose(held[:1])
    session.begin("?", AskOptions(), session.films.image)
    session.films.add(held[1:2])
    session.begin("?", AskOptions(), session.films.image)
    assert session.memory == sum(film.image.memory for film in held[:2])


def session_headers(client):
    page = client.get("/").text
    return {"X-MRRAG-Session": re.search('data-session="([^"]+)"', page)[1]}


def test_a_question_is_about_the_film_that_the_tab_shows(client, corpus):
    headers = session_headers(client)
    for path in corpus.images[:2]:
        shown = client.post("/page/film", headers=headers, files={"image": path.read_bytes()})
        assert shown.status_code == 200
    number = int(re.search('name="film" value="([0-9]+)"', shown.text)[1])
    asked = {"question": corpus.question}
    for route in ("/page/ask", "/page/rank"):
        for other in (number - 1, f"{number - 1},{number}", ""):
            earlier = client.post(route, headers=headers, data={**asked, "film": other})
            assert (earlier.status_code, earlier.headers["mrrag-error"]) == (409, "other_film")
    answered = client.post("/page/ask", headers=headers, data={**asked, "film": number})
    assert "data-other-film hidden" in answered.text
    client.post("/page/film", headers=headers, files={"image": corpus.images[2].read_bytes()})
    again = client.post("/page/turn", headers=headers, data={"turn": 1})
    assert "data-other-film>" in again.text


@pytest.mark.parametrize(
    ("count", "says"),
    [(2, "this model reads one"), (9, "this model reads one"), (65, "at most 64 files")],
)
def test_several_films_are_refused_before_they_are_read_by_a_model_of_one(client, count, says):
    headers = session_headers(client)
    files = [("image", b"no image at all")] * count
    refused = client.post("/page/film", headers=headers, files=files)
    assert refused.status_code == 400
    assert says in refused.text


def test_documents_taken_away_at_once_are_those_that_the_number_is_about(service, corpus, image):
    turn = Session().begin(corpus.question, AskOptions(k=4), image)
    for _ in turns.answer(service, turn, threading.Event()):
        pass
    names = [item.node.node_id for item in turn.nodes][:3]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda name: turns.hide(service, turn, name), names))
    assert turn.hidden == set(names)
    alone = without_documents(
        service.llm.engine,
        request_of(turn.question, turn.nodes),
        image.rgb,
        set(names),
        service.llm.policy,
        turn.options.max_new_tokens,
    )
    assert turn.without.p_yes == pytest.approx(alone.p_yes, abs=1e-5)
    with pytest.raises(MRRAGError):
        turns.hide(service, turn, "no document")
    assert turn.hidden == set(names)


def test_every_film_is_looked_at_and_read_again(reader, corpus):
    study = QueryImage.study(corpus.images[:2])
    turn = Session().begin(corpus.question, AskOptions(k=2), study)
    for _ in turns.answer(reader, turn, threading.Event()):
        pass
    answer = turn.results["steered"].answer
    assert turn.looks["steered"].p_yes == pytest.approx(answer.p_yes, abs=1e-6)
    turns.hide(reader, turn, answer.document_ids[0])
    alone = without_documents(
        reader.llm.engine,
        request_of(turn.question, turn.nodes),
        study.pictures,
        {answer.document_ids[0]},
        reader.llm.policy,
    )
    assert turn.without == alone


@pytest.mark.parametrize(
    ("plain", "turned"), [((0.1, 0.8), True), ((0.2, 0.1), True), ((0.7, 0.2), False)]
)
def test_the_answer_is_called_the_same_only_if_it_is(service, corpus, image, plain, turned):
    turn = Session().begin(corpus.question, AskOptions(), image)
    for _ in turns.answer(service, turn, threading.Event()):
        pass
    for name, (yes, no) in {"steered": (0.9, 0.1), "plain": plain}.items():
        result = turn.results[name]
        answer = replace(result.answer, p_yes=yes, p_no=no)
        text = "yes" if yes > no else "no"
        turn.results[name] = replace(result, answer=answer, text=text)
    said = " ".join(views.why(turn))
    assert ("turned the answer" in said) == turned
    assert ("the answer is the same" in said) != turned


def test_an_answer_in_other_words_is_not_called_yes_or_no(service, corpus, image):
    """Both together may be more probable than the one word that is said."""
    turn = Session().begin(corpus.question, AskOptions(), image)
    for _ in turns.answer(service, turn, threading.Event()):
        pass
    result = turn.results["steered"]
    answer = replace(result.answer, p_yes=0.3, p_no=0.25)
    for text, called in (("Possibly.", False), ("Yes, on the left.", True), ("", False)):
        turn.results["steered"] = replace(result, answer=answer, text=text)
        said = " ".join(views.why(turn))
        assert ("The model says yes" in said) == called
        assert ("with plain attention" in said) == called


def test_a_case_that_speaks_against_the_answer_is_not_said_to_leave_it(service, corpus, image):
    turn = Session().begin(corpus.question, AskOptions(), image)
    for _ in turns.answer(service, turn, threading.Event()):
        pass
    result = turn.results["steered"]
    influences = {
        name: replace(moved, points=-20.0 if number == 0 else 0.0)
        for number, (name, moved) in enumerate(result.answer.influence.items())
    }
    answer = replace(result.answer, influence=influences)
    turn.results["steered"] = replace(result, answer=answer)
    said = " ".join(views.why(turn))
    assert "speaks most against it (-20 points)" in said
    assert "moves it by" not in said
    assert "would not lower its probability" in said


def test_the_picture_of_an_id_with_dots_is_asked_for_by_that_id():
    row = {
        **dict.fromkeys(("image_text", "image_image", "text_text", "score", "lambda"), 0.5),
        **{"pair_id": "a/../b", "report": "", "weights": {}, "has_image": True},
        **dict.fromkeys(("patient_id", "study_id", "probability")),
    }
    text = rendering.render("cases.html", cases=views.cases([row], ""), turn=None, before={})
    assert 'src="/page/pairs/a%2F..%2Fb"' in text


def test_a_session_keeps_a_bounded_number_of_turns(image):
    session = Session()
    turns_ = [session.begin("?", AskOptions(), image) for _ in range(MOST_TURNS + 5)]
    assert session.turns == turns_[-MOST_TURNS:]
    assert session.turn(turns_[-1].number) is turns_[-1]
    assert session.turn(1) is None


@pytest.mark.parametrize(
    ("report", "count"),
    [
        ("No effusion. Clear lungs.", 2),
        ("Nodule of 3.5 mm. Stable", 2),
        ("One line\nanother line", 2),
        ("Dr. who? Nobody!", 3),
        ("", 0),
        (" \n ", 0),
        ("...", 0),
    ],
)
def test_a_report_is_cut_into_sentences_and_nothing_is_lost(report, count):
    cut = views.sentences(report, "Is there an effusion?")
    assert len(cut) == count
    text = "".join(word for sentence in cut for word, _ in sentence)
    if count:
        assert "".join(text.split()) == "".join(report.split())


def test_words_of_the_question_are_marked_and_common_ones_are_not():
    (sentence,) = views.sentences("There is no Pleural effusion", "Is there a pleural effusion?")
    assert [word for word, asked in sentence if asked] == ["Pleural", "effusion"]


def test_the_prompt_again_is_that_of_the_answer(service, corpus, image):
    options = AskOptions(explain=True)
    result = service.ask(image, corpus.question, options)
    request = request_of(corpus.question, result.source_nodes)
    engine, policy = service.llm.engine, service.llm.policy
    nothing = without_documents(engine, request, image.rgb, (), policy)
    assert (nothing.p_yes, nothing.p_no) == pytest.approx(
        (result.answer.p_yes, result.answer.p_no), abs=1e-5
    )
    looked = attention_shares(engine, request, image.rgb, policy)
    assert (looked.p_yes, looked.p_no) == pytest.approx(
        (result.answer.p_yes, result.answer.p_no), abs=1e-5
    )
    assert nothing.text == result.text.split()[0]
    spoken = int(result.answer.p_no > result.answer.p_yes)
    for name, moved in result.answer.influence.items():
        one = without_documents(engine, request, image.rgb, {name}, policy)
        lost = (nothing.p_yes, nothing.p_no)[spoken] - (one.p_yes, one.p_no)[spoken]
        assert 100 * lost == pytest.approx(moved.points, abs=0.01)
    with pytest.raises(InputError, match="does not hold"):
        without_documents(engine, request, image.rgb, {"another"}, policy)


def test_a_turn_can_be_left_at_any_time(service, corpus, image):
    turn = Session().begin(corpus.question, AskOptions(), image)
    events = turns.answer(service, turn, threading.Event())
    for kind, _ in events:
        if kind == "piece":
            break
    events.close()
    again = Session().begin(corpus.question, AskOptions(), image)
    kinds = [kind for kind, _ in turns.answer(service, again, threading.Event())]
    assert kinds[-1] == "answered"


def test_several_layers_are_shown_by_their_mean_first():
    layers = {
        3: LayerShares({"a": 0.2, "b": 0.4}, 0.1, 0.1, 0.2),
        7: LayerShares({"a": 0.6, "b": 0.0}, 0.1, 0.1, 0.2),
    }
    look = AttentionShares(layers, layers, (3, 7), 0.5, 0.5)
    mean, *each = views.strips(look, "answer")
    assert mean["name"] == "mean"
    assert [strip["name"] for strip in each] == ["layer 3", "layer 7"]
    percents = {part["name"]: part["percent"] for part in mean["parts"]}
    assert percents == pytest.approx(
        {"case 1": 40, "case 2": 20, "film": 10, "question": 10, "other text": 20}
    )
    (one,) = views.strips(AttentionShares({3: layers[3]}, {}, (), 0, 0), "question")
    assert one["name"] == "layer 3"


def test_why_names_the_case_that_moved_the_answer_most(service, corpus, image):
    turn = Session().begin(corpus.question, AskOptions(), image)
    for _ in turns.answer(service, turn, threading.Event()):
        pass
    said = views.why(turn)
    assert said[0].startswith("The model says ")
    influences = turn.results["steered"].answer.influence
    best = max(influences, key=lambda name: influences[name].points)
    number = 1 + [item.node.node_id for item in turn.nodes].index(best)
    if influences[best].points >= 1:
        assert any(sentence.startswith(f"It rests most on case {number}") for sentence in said)


class SixTerms:
    """The phantom's towers, with another pair of features of each half beside the common space."""

    source = ""
    identity = "six@0123456789abcdef"
    text_token_limit = 64
    long_text = "mean"

    def __init__(self) -> None:
        self._towers = load_towers("phantom")
        self.dimension = self._towers.dimension
        self.blocks = Blocks(self.dimension, 4, 4)

    def embed_images(self, images, batch_size=32):
        return self._with_raw(self._towers.embed_images(images, batch_size))

    def embed_texts(self, texts, batch_size=32):
        return self._with_raw(self._towers.embed_texts(texts, batch_size))

    def _with_raw(self, rows):
        raw = rows[:, :4] / np.linalg.norm(rows[:, :4], axis=1, keepdims=True)
        return np.concatenate([rows, raw], axis=1).astype(np.float32)


def test_six_terms_have_six_sliders_and_six_bars(service, corpus, image):
    pairs = [
        Pair(str(path), f"No pleural effusion, film {number}.", f"p{number}")
        for number, path in enumerate(corpus.images)
    ]
    six = Service(MRRAGIndex.from_pairs(pairs, SixTerms()), service.llm)
    assert [slider["name"] for slider in rendering.sliders(six)] == list(ALL_TERMS)
    weights = dict.fromkeys(ALL_TERMS, 0.5)
    rows = six.retrieve(image, corpus.question, RetrievalOptions(weights=weights))
    for case in views.cases(rows, corpus.question):
        assert len(case["terms"]) == 6
        assert sum(term["part"] for term in case["terms"]) == pytest.approx(case["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("film", {"example": 0}),
        ("window", {"low": 0, "high": 200}),
        ("show", {"film": 1}),
        ("move", {"film": 1}),
        ("remove", {"film": 1}),
        ("ask", {"question": "Is there a nodule?"}),
        ("rank", {"question": "Is there a nodule?"}),
        ("without", {"turn": 1, "pair_id": "x"}),
        ("turn", {"turn": 1}),
        ("export", {"turn": 1, "session": "x"}),
        ("close", {"session": "x"}),
    ],
)
def test_no_field_of_the_pages_forms_is_passed_over(client, corpus, route, fields):
    page = client.get("/").text
    headers = {"X-MRRAG-Session": re.search('data-session="([^"]+)"', page)[1]}
    client.post("/page/film", headers=headers, files={"image": corpus.images[0].read_bytes()})
    sent = {**fields, "exclude_patient": "anna"}
    refused = client.post(f"/page/{route}", headers=headers, data=sent)
    assert (refused.status_code, refused.headers["mrrag-error"]) == (422, "unknown_field")
    assert "exclude_patient" in refused.text


def test_a_case_whose_film_is_gone_is_saved_with_a_note(service, corpus, image, monkeypatch):
    turn = Session().begin(corpus.question, AskOptions(k=4), image)
    for _ in turns.answer(service, turn, threading.Event()):
        pass
    whole = rendering.export(service, turn)
    gone = turn.nodes[1].node.node_id
    pair = service.pair

    def without(pair_id):
        found = pair(pair_id)
        path = f"{found.image_path}.gone" if pair_id == gone else found.image_path
        return replace(found, image_path=path)

    monkeypatch.setattr(service, "pair", without)
    saved = rendering.export(service, turn)
    assert saved.count("data:image/png") == whole.count("data:image/png") - 1
    assert "its film is gone" in saved
    assert "its film is gone" not in whole
