"""Several images of one study over HTTP: as in the process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from typer.testing import CliRunner

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.images.query_image import QueryImage
from mrrag_llamaindex.integration.answers.ask import ask
from mrrag_llamaindex.integration.retriever import MRRAGRetriever
from mrrag_llamaindex.serving.settings import Settings
from tests.serving.conftest import running


@pytest.fixture(scope="module")
def readers(reader) -> Iterator[httpx.Client]:
    with running(reader, Settings()) as address, httpx.Client(base_url=address) as client:
        client.timeout = 60
        yield client


@pytest.fixture(scope="module")
def expected(reader, corpus) -> dict:
    found = ask(reader.index, reader.llm, corpus.images[:2], corpus.question, similarity_top_k=3)
    return found.as_dict()


def test_a_list_in_json_files_in_a_form_and_parts_of_a_message(readers, corpus, expected):
    urls = [corpus.data_url(0), corpus.data_url(1)]
    body = {"question": corpus.question, "image": urls, "k": 3}
    by_json = readers.post("/v1/ask", json=body)
    assert by_json.status_code == 200, by_json.text
    files = [("image", path.read_bytes()) for path in corpus.images[:2]]
    by_form = readers.post("/v1/ask", data={"question": corpus.question, "k": 3}, files=files)
    assert by_form.status_code == 200, by_form.text
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": corpus.question}, *parts]
    by_chat = readers.post(
        "/v1/chat/completions",
        json={
            "model": "reader",
            "messages": [{"role": "user", "content": content}],
            "mrrag": {"k": 3},
        },
    )
    assert by_chat.status_code == 200, by_chat.text
    for facts in (by_json.json(), by_form.json(), by_chat.json()["mrrag"]):
        assert facts["p_yes"] == pytest.approx(expected["p_yes"], abs=1e-6)
        assert facts["sources"] == expected["sources"]
    turned = readers.post("/v1/ask", json={**body, "image": urls[::-1]}).json()
    assert turned["p_yes"] != pytest.approx(expected["p_yes"], abs=1e-7)


def chat(readers, *messages):
    answer = readers.post(
        "/v1/chat/completions",
        json={"model": "reader", "messages": list(messages), "mrrag": {"k": 3}},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_further_question_of_a_chat_is_about_all_images_of_the_last(readers, corpus):
    images = [{"type": "image_url", "image_url": {"url": corpus.data_url(n)}} for n in (0, 1)]
    first = {"role": "user", "content": [{"type": "text", "text": corpus.question}, *images]}
    said = chat(readers, first)["choices"][0]["message"]["content"]
    turns = [first, {"role": "assistant", "content": said}]
    further = "Is there a nodule?"
    found = [
        chat(readers, *turns, {"role": "user", "content": content})["mrrag"]
        for content in (further, [{"type": "text", "text": further}, *images])
    ]
    assert found[0]["sources"] == found[1]["sources"]
    assert [one["left_out_turns"] for one in found] == [0, 0]
    # A question about one of them is not about both, and takes no turn along.
    one = [{"type": "text", "text": further}, images[1]]
    assert chat(readers, *turns, {"role": "user", "content": one})["mrrag"]["left_out_turns"] == 1


def test_the_command_asks_a_server_about_all_images(readers, corpus, expected):
    arguments = ["ask", "--server", str(readers.base_url), "--documents", "3", "--json"]
    images = [part for path in corpus.images[:2] for part in ("--image", str(path))]
    found = CliRunner().invoke(app, [*arguments, *images, corpus.question])
    assert found.exit_code == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer["p_yes"] == pytest.approx(expected["p_yes"], abs=1e-6)
    assert answer["sources"] == expected["sources"]


def test_what_the_page_offers_is_what_the_model_reads(service, reader):
    assert not service.reads_several
    assert reader.reads_several


def test_a_model_of_one_image_refuses_before_it_searches(service, corpus, monkeypatch):
    def searched(*_):
        pytest.fail("the store was searched")

    monkeypatch.setattr(MRRAGRetriever, "nodes_about", searched)
    study = QueryImage.study(corpus.images[:2])
    for asked in (service.ask, partial(ask, service.index, service.llm)):
        with pytest.raises(InputError, match="this model reads one"):
            asked(study, corpus.question)


def test_scores_are_combined_as_the_request_says(readers, corpus):
    urls = [corpus.data_url(0), corpus.data_url(1)]
    scores = {}
    for name, image in (("both", urls), ("first", urls[0]), ("second", urls[1])):
        for combine in ("mean", "max"):
            body = {"question": corpus.question, "image": image, "k": 24, "one_per": "none"}
            found = readers.post("/v1/retrieve", json={**body, "combine_images": combine}).json()
            scores[name, combine] = {row["pair_id"]: row["score"] for row in found["documents"]}
    for combine, combined in (("mean", lambda a, b: (a + b) / 2), ("max", max)):
        first, second = (scores[name, combine] for name in ("first", "second"))
        known = scores["both", combine].keys() & first.keys() & second.keys()
        assert len(known) > 5
        for pair_id in known:
            both = combined(first[pair_id], second[pair_id])
            assert scores["both", combine][pair_id] == pytest.approx(both, abs=1e-5)


@pytest.mark.parametrize(
    ("images", "says"),
    [([0, 0], "twice"), ([0, 1], "this model reads one"), ([], "no image")],
    ids=["twice", "a model of one image", "none"],
)
def test_what_cannot_be_asked_is_refused_by_name(client, corpus, images, says):
    urls = [corpus.data_url(number) for number in images]
    answer = client.post("/v1/ask", json={"question": corpus.question, "image": urls})
    assert 400 <= answer.status_code < 500, answer.text
    assert says in answer.json()["error"]["message"]
