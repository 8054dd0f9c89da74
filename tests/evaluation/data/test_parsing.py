"""What answers say: the strict rule, and the published one bit for bit."""

from __future__ import annotations

import random

import pytest

from mrrag_llamaindex.evaluation.data.parsing import cares, leading, rule_named


@pytest.mark.parametrize(
    ("text", "strict", "published"),
    [
        ("Yes.", "yes", "yes"),
        ("No, the lungs are clear.", "no", "no"),
        ("NO", "no", "yes"),
        ("**Yes**, there is", "yes", "yes"),
        ('  "no"', "no", "yes"),
        ("_No_.", "no", "yes"),
        ("", "other", "yes"),
        ("I cannot answer that.", "other", "yes"),
        ("Not visible", "other", "yes"),
        ("It is not visible", "other", "no"),
        ("Yes, with no effusion", "yes", "no"),
        ("Yes. There is no effusion", "yes", "yes"),
        ("The answer is no; it is clear", "other", "yes"),
        ("The answer is,no", "other", "yes"),
        ("Clear.\nNo", "other", "yes"),
        ("clear\nno doubt", "other", "yes"),
        ("a  no  b", "other", "no"),
        ("Nothing", "other", "yes"),
        ("None", "other", "yes"),
        ("yesterday", "other", "yes"),
        ("no-one", "other", "yes"),
        ("No - clear", "no", "no"),
        ("yes/no", "other", "yes"),
        ("Yes / No", "other", "no"),
        ("yes or no", "other", "no"),
        ("Yes | No", "other", "no"),
        ("no\\yes", "other", "yes"),
        ("Yes | the lungs are hazy", "yes", "yes"),
        ("no evidence of it", "no", "no"),
        ("Not seen.", "other", "yes"),
        ("Normal", "other", "yes"),
        ("\ufeffYes", "yes", "yes"),
        ("\u00a0NO.", "no", "yes"),
        ("\uff2eo", "other", "yes"),
        ("No and yes", "other", "no"),
        ("No or minimal effusion", "no", "no"),
        ("Answer: yes", "other", "yes"),
        ("ye\u017f", "other", "yes"),
        ("no2", "other", "yes"),
    ],
)
def test_each_rule_on_each_quirk(text, strict, published):
    assert leading(text) == strict
    assert cares(text) == published


def test_cares_equals_a_literal_transcription_on_random_texts():
    def published(text):
        if "." in text:
            text = text[: text.index(".")]
        words = text.replace(",", "").split(" ")
        return "no" if "No" in words or "not" in words or "no" in words else "yes"

    rng = random.Random(0)
    parts = ["no", "No", "NO", "not", "yes", ",", ".", " ", " ", "\n", ";", "no,", "a"]
    texts = ["".join(rng.choices(parts, k=rng.randint(0, 8))) for _ in range(5000)]
    assert {published(text) for text in texts} == {"yes", "no"}
    assert all(cares(text) == published(text) for text in texts)


def test_leading_depends_on_nothing_after_a_sentence_end():
    rng = random.Random(1)
    for _ in range(500):
        tail = "".join(rng.choices("yesno ,.\n/", k=10))
        assert leading("Yes. A" + tail) == "yes"
        assert leading("no. A" + tail) == "no"
        assert leading("Unclear. " + tail) == "other"


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match="'strict'; there are: leading, cares"):
        rule_named("strict")
