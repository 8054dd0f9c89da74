"""``--engine`` and ``--api-base``: the same answers from a vLLM server, or what is in the way."""

from __future__ import annotations

import json

import pytest

from mrrag_llamaindex.serving.schemas import AskOptions
from mrrag_llamaindex.serving.service import Service


def ask(mrrag, corpus, *options):
    return mrrag(
        *("ask", "--store", corpus.store, "--image", corpus.image, "--model", "phantom", "--json"),
        *(*options, corpus.question),
    )


@pytest.mark.slow
@pytest.mark.parametrize("steering", ["--ifa", "--no-ifa"])
def test_a_vllm_server_gives_the_answer_of_the_model_here(mrrag, corpus, token_server, steering):
    here = ask(mrrag, corpus, "--device", "cpu", steering)
    there = ask(mrrag, corpus, "--api-base", token_server.address, "--device", "cpu", steering)
    assert there.code == 0, there.err
    mine, theirs = json.loads(here.out), json.loads(there.out)
    for answer in (mine, theirs):
        del answer["seconds"]
        for name in ("p_yes", "p_no"):
            answer[name] = round(answer[name], 4)
    assert mine == theirs
    assert len(token_server.seen) == 1


@pytest.mark.slow
def test_what_does_not_go_together_is_one_line(mrrag, corpus, token_server):
    for options, word in (
        (("--api-base", token_server.address, "--engine", "vllm"), "not both"),
        (("--api-base", token_server.address, "--explain"), "explain=True"),
        (("--api-base", token_server.address, "--quantization", "int8"), "quantization"),
        (("--api-base", "127.0.0.1"), "http://host:port"),
    ):
        result = ask(mrrag, corpus, *options)
        assert result.code == 2, options
        (line,) = result.err.strip().splitlines()
        assert word in line
    server = mrrag("ask", "--server", "http://127.0.0.1:9", "--engine", "vllm", "--image", "x", "?")
    assert server.code == 2
    assert "--engine" in server.err


@pytest.mark.slow
def test_an_evaluation_asks_the_server(mrrag, token_server, tmp_path):
    options = (
        "--data",
        "phantom",
        "--seeds",
        1,
        "--questions",
        4,
        "--methods",
        "mcr+ifa,no-retrieval",
    )
    tables = []
    for more in (("--device", "cpu"), ("--device", "cpu", "--api-base", token_server.address)):
        weights = tmp_path / "weights.json"
        weights.write_text(json.dumps({"image_text": 1, "image_image": 1, "text_text": 1}))
        result = mrrag("eval", *options, *more, "--weights", weights, "--json")
        assert result.code == 0, result.err
        tables.append(json.loads(result.out))
    for table in tables:
        assert table["rows"]
    mine, theirs = ([row["accuracy"] for row in table["rows"]] for table in tables)
    assert mine == theirs
    assert token_server.seen


def test_a_server_over_a_server_answers_and_says_what_it_cannot(corpus, token_server, films):
    service = Service.load(
        corpus.store,
        device="cpu",
        model="phantom",
        api_base=token_server.address,
        max_new_tokens=4,
    )
    assert service.device == f"the vLLM server at {token_server.address}"
    image = service.read_image(corpus.image.read_bytes())
    result = service.ask(image, corpus.question)
    assert result.answer.text in ("yes", "no")
    assert result.answer.steering.applied
    plain = service.ask(image, corpus.question, AskOptions(ifa=False))
    assert not plain.answer.steering.applied
    assert service.llm.engine.stats.answered == 2
