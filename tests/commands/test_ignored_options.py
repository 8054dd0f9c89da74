"""An option that a way of running a command does not read is refused by name, and never ignored."""

from __future__ import annotations

import pytest

PHANTOM = ("--data", "phantom")
MINED = ("mine", *PHANTOM, "--out", "mined.jsonl")
ALONE = ("eval", "--data", "table", "--root", "x", "--predictions", "a.csv", "--name", "a")
VOTES = ("eval", "--data", "vqa-rad")
RESCORED = ("eval", *PHANTOM, "--rescore", "run")


@pytest.mark.parametrize(
    ("command", "option", "why"),
    [
        (RESCORED, ("--documents", 3), "reads the answers of a run"),
        (RESCORED, ("--validation", 0.5), "reads the answers of a run"),
        (RESCORED, ("--facts", "f.csv"), "reads the answers of a run"),
        (ALONE, ("--adapter", "a"), "no model is asked"),
        (ALONE, ("--documents", 3), "nothing is retrieved"),
        (ALONE, ("--one-per", "none"), "nothing is retrieved"),
        (VOTES, ("--adapter", "a"), "answers by vote"),
        (VOTES, ("--validation", 0.5), "answers by vote"),
        (VOTES, ("--scoring", "cares"), "answers by vote"),
        (("eval", *PHANTOM), ("--validation", 0.5), "the phantom"),
        (("eval", "--data", "table"), ("--seeds", 3), "--data phantom"),
        (MINED, ("--columns", "image=file"), "no table"),
        (MINED, ("--fail-on-skipped",), "no table"),
        (("find-layers", *PHANTOM), ("--documents", 3), "no table"),
        (("calibrate", *PHANTOM), ("--rule", "right"), "mined records"),
        (("calibrate", "mined.jsonl"), ("--questions", 9), "--data phantom"),
        (("train-fusion", *PHANTOM), ("--force",), "nothing is saved"),
        (("train-fusion", *PHANTOM), ("--gated",), "nothing is saved"),
        (("doctor", "--towers", "phantom"), ("--quantization", "int4"), "--towers"),
        (("ask", "x", "--image", "i.png", "--store", "s"), ("--token", "t" * 20), "--server"),
        (("serve", "--store", "s"), ("--out", "o"), "--demo"),
    ],
)
def test_an_option_that_is_not_read_is_refused(mrrag, command, option, why):
    result = mrrag(*command, *option)
    assert (result.code, result.out) == (2, "")
    assert option[0] in result.err
    assert why in result.err


def test_a_row_needs_a_name(mrrag):
    result = mrrag("eval", *PHANTOM, "--predictions", "a.csv", "--name", " ")
    assert (result.code, "--name is empty" in result.err) == (2, True)
