"""``/v1/ask``, ``/v1/retrieve``, ``/v1/pairs``: over HTTP the same as in the process."""

from __future__ import annotations

import io
from dataclasses import replace
from urllib.parse import quote

import pytest
from PIL import Image

from mrrag_llamaindex.errors import NoRelevantCase
from mrrag_llamaindex.integration.answers.ask import ask


def test_an_answer_is_the_one_of_the_process(client, service, corpus):
    body = {"question": corpus.question, "image": corpus.data_url(), "explain": True}
    answer = client.post("/v1/ask", json=body)
    assert answer.status_code == 200, answer.text
    llm = service.llm.model_copy(update={"explain": True})
    expected = ask(service.index, llm, corpus.images[0], corpus.question).as_dict()
    got = answer.json()
    del got["seconds"], expected["seconds"]
    assert got == expected


def test_a_form_is_read_as_json_is(client, corpus):
    options = {"k": 3, "ifa": False, "exclude_pairs": ["synthetic-0001-1", "synthetic-0002-1"]}
    body = {"question": corpus.question, "image": corpus.data_url(), **options}
    expected = client.post("/v1/ask", json=body).json()
    form = {**options, "question": corpus.question, "window": "[0, 255]"}
    with corpus.images[0].open("rb") as image:
        answer = client.post("/v1/ask", data=form, files={"image": image})
    assert answer.status_code == 200, answer.text
    got = answer.json()
    assert len(got["sources"]) == 3
    assert not got["steering"]["applied"]
    assert got["sources"] == expected["sources"]


def test_weights_of_a_request_rank_for_it_alone(client, corpus):
    body = {"question": corpus.question, "image": corpus.data_url()}
    before = client.post("/v1/retrieve", json=body).json()["documents"]
    weights = {"image_text": 0.0, "image_image": 1.0, "text_text": 0.0}
    by_image = client.post("/v1/retrieve", json={**body, "weights": weights}).json()["documents"]
    assert [row["score"] for row in by_image] == pytest.approx(
        [row["image_image"] for row in by_image], abs=1e-6
    )
    assert client.post("/v1/retrieve", json=body).json()["documents"] == before


def test_a_pair_and_its_image(client, service, corpus):
    body = {"question": corpus.question, "image": corpus.data_url(), "k": 1}
    (found,) = client.post("/v1/retrieve", json=body).json()["documents"]
    pair = client.get(f"/v1/pairs/{quote(found['pair_id'], safe='')}").json()
    assert pair["report"] == found["report"]
    image = client.get(pair["image"])
    assert image.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(image.content)) as shown:
        assert shown.tobytes() == service.pair_image(found["pair_id"]).tobytes()


def test_what_a_request_cannot_have_is_refused_by_name(client, corpus):
    body = {"question": corpus.question, "image": corpus.data_url()}
    refused = client.post("/v1/ask", json={**body, "temperature": 0.5})
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "temperature"
    refused = client.post("/v1/ask", json={**body, "weights": {"image_txet": 1}})
    assert refused.status_code == 400
    assert "image_txet" in refused.json()["error"]["message"]
    refused = client.post("/v1/ask", json={**body, "image": "https://example.org/cxr.png"})
    assert refused.json()["error"]["code"] == "image_not_sent"


def test_responses_are_what_their_description_says(client, corpus):
    from mrrag_llamaindex.serving.http import responses

    body = {"question": corpus.question, "image": corpus.data_url(), "explain": True}
    responses.Answer.model_validate(client.post("/v1/ask", json=body).json(), strict=True)
    del body["explain"]
    found = client.post("/v1/retrieve", json=body).json()
    pair_id = responses.Documents.model_validate(found, strict=True).documents[0].pair_id
    responses.Pair.model_validate(client.get(f"/v1/pairs/{pair_id}").json(), strict=True)
    responses.Error.model_validate(client.get("/v1/pairs/none").json(), strict=True)
    part = {"type": "image_url", "image_url": {"url": corpus.data_url()}}
    messages = [{"role": "user", "content": [{"type": "text", "text": corpus.question}, part]}]
    chat = client.post("/v1/chat/completions", json={"model": "phantom", "messages": messages})
    responses.Completed.model_validate(chat.json(), strict=True)
    nothing = NoRelevantCase(0.1, 0.2, 0.3, 0.9).as_dict(corpus.question)
    responses.NoAnswer.model_validate(nothing, strict=True)
    page = client.get("/docs").text
    for field in ("sources[].influence.flips", "documents[].report", "mrrag.left_out_turns"):
        assert field in page


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("k", (None, "3")), ("k", (None, "5"))], "k"),
        ([("weights", ("weights.json", b'{"image_text": 1}'))], "weights"),
        ([("k", ("k", b"3"))], "k"),
        ([("image", (None, "aGFsbG8=")), ("image", ("film.png", b"film"))], "image"),
    ],
)
def test_no_field_of_a_form_is_passed_over(client, corpus, fields, param):
    refused = client.post("/v1/retrieve", files=[("question", (None, corpus.question)), *fields])
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize("address", ["/v1/ask", "/v1/retrieve", "/v1/chat/completions"])
def test_no_parameter_of_an_address_is_passed_over(client, corpus, address):
    body = {"question": corpus.question, "image": corpus.data_url()}
    refused = client.post(address, params={"exclude_patients": "anna"}, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "exclude_patients")


def test_half_a_window_is_refused(client, corpus):
    found = client.post("/v1/retrieve", json={"question": corpus.question, "k": 1}).json()
    address = f"/v1/pairs/{found['documents'][0]['pair_id']}"
    assert client.get(f"{address}/image", params={"low": 1, "high": 90}).status_code == 200
    assert client.get(f"{address}/image", params={"low": 1}).status_code == 422
    assert client.get(f"{address}/image", params={"frame": 1}).status_code == 422
    assert client.get(address, params={"low": 1}).status_code == 422


def test_an_image_file_that_is_gone_is_no_fault_of_the_query(client, service, corpus, monkeypatch):
    found = client.post("/v1/retrieve", json={"question": corpus.question, "k": 1}).json()
    pair = service.pair(found["documents"][0]["pair_id"])
    gone = replace(pair, image_path=f"{pair.image_path}.gone")
    monkeypatch.setattr(service, "pair", lambda _: gone)
    refused = client.get(f"/v1/pairs/{pair.pair_id}/image")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert "query" not in refused.text
    assert pair.pair_id not in refused.text


@pytest.mark.parametrize(
    "fields",
    [
        [("exclude_pairs", '["{0}", "{1}"]')],
        [("exclude_pairs", "{0}"), ("exclude_pairs", "{1}")],
        [("exclude_pairs", '["{0}"]'), ("exclude_pairs", ' ["{1}"]')],
        [("exclude_pairs", "{0}"), ("exclude_pairs", '["{1}"]')],
    ],
)
def test_lists_of_a_form_are_repeated_or_in_json(client, corpus, fields):
    body = {"question": corpus.question, "k": 4, "one_per": "none"}
    rows = client.post("/v1/retrieve", json=body).json()["documents"]
    first = [row["pair_id"] for row in rows[:2]]
    form = [(name, (None, str(value))) for name, value in body.items()]
    form += [
        (name, (None, value.replace("{0}", first[0]).replace("{1}", first[1])))
        for name, value in fields
    ]
    found = client.post("/v1/retrieve", files=form)
    assert found.status_code == 200, found.text
    expected = client.post("/v1/retrieve", json={**body, "exclude_pairs": first}).json()
    assert found.json() == expected
    assert not {row["pair_id"] for row in found.json()["documents"]} & set(first)


@pytest.mark.parametrize("value", ['["anna', "[1]", '[["anna"]]', '{"anna": 1}', "[" * 100_000])
def test_what_is_no_list_of_ids_is_no_id_either(client, corpus, value):
    form = [("question", (None, corpus.question)), ("exclude_patients", (None, value))]
    refused = client.post("/v1/retrieve", files=form)
    assert refused.status_code == 422
    assert refused.json()["error"]["param"].startswith("exclude_patients")


def test_a_question_of_a_form_may_begin_with_a_bracket(client, corpus):
    question = f"[urgent] {corpus.question}"
    form = [("question", (None, question)), ("k", (None, "2"))]
    expected = client.post("/v1/retrieve", json={"question": question, "k": 2}).json()
    assert client.post("/v1/retrieve", files=form).json() == expected


def test_the_description_says_how_a_form_holds_a_list(client):
    described = client.get("/openapi.json").json()["paths"]["/v1/ask"]["post"]["requestBody"]
    fields = described["content"]["multipart/form-data"]["schema"]["properties"]
    for name in ("exclude_pairs", "exclude_patients", "exclude_studies"):
        assert "JSON" in fields[name]["description"]
