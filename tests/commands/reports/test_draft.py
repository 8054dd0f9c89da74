"""``mrrag draft``: a draft that says so, or one line and exit 2."""

from __future__ import annotations

import json

import pytest

from mrrag_llamaindex.integration.answers.report_draft import NOTICE

MODEL = ("--model", "phantom-describing", "--max-new-tokens", 20)


@pytest.mark.slow
def test_json_and_terminal_tell_the_same_draft(mrrag, corpus):
    asked = ("draft", "--store", corpus.store, "--image", corpus.image, *MODEL)
    result = mrrag(*asked, "--every-step", "--json")
    assert result.code == 0, result.err
    draft = json.loads(result.out)
    assert draft["notice"] == NOTICE
    assert draft["text"].startswith(NOTICE)
    assert draft["steering"]["every_step"]
    assert len(draft["sentences"]) == 8
    assert {"load", "retrieve", "answer", "effects"} <= draft["seconds"].keys()
    shown = mrrag(*asked, "--every-step").out
    assert shown.startswith(NOTICE)
    for line in draft["text"].splitlines():
        assert line in shown
    plain = json.loads(mrrag(*asked, "--no-ifa", "--json").out)
    assert not plain["steering"]["applied"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "--store is missing"),
        (("--store", "nowhere"), "nowhere"),
        (("--store", "x", "--no-ifa", "--every-step"), "--every-step"),
    ],
)
def test_bad_input_is_one_line(mrrag, corpus, options, named):
    result = mrrag("draft", "--image", corpus.image, *options)
    assert result.code == 2
    assert named in result.err
    assert len(result.err.strip().splitlines()) == 1
