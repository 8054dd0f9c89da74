"""JSON from elsewhere: of one meaning, and no deeper than what reads it next can bear."""

from __future__ import annotations

import pytest

from mrrag_llamaindex.files.json_files import parse_json, read_json

DEEP = "[" * 200 + "]" * 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEEP, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": 1', "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
@pytest.mark.parametrize("unambiguous", [False, True])
def test_what_nobody_could_read_is_refused_in_a_few_words(text, words, unambiguous) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_json(text, unambiguous=unambiguous)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": [{"b": 1, "c": 2, "b": 1}]}', "'b' twice"),
        ('{"a": NaN}', "'a' holds a number that is not finite"),
        ('{"a": {"b": [1, [-Infinity]]}}', "'b' holds a number that is not finite"),
        ('{"": 1e999}', "not finite"),
        ("[" + "9" * 5000 + "]", "5000 digits"),
        ("[" + "9" * 400 + "]", "400 digits"),
    ],
)
def test_what_has_two_meanings_is_refused_on_request(text, words) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text, unambiguous=True)


def test_files_of_others_may_say_a_thing_twice(tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1, "a": 2, "limit": Infinity}')
    assert read_json(path) == {"a": 2, "limit": float("inf")}
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="UTF-8"):
        read_json(path)
