"""Importing the package costs nothing and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import mrrag_llamaindex
from mrrag_llamaindex import errors

PROBE = """
import json, sys, time
started = time.perf_counter()
import mrrag_llamaindex
seconds = time.perf_counter() - started
heavy = ("torch", "transformers", "chromadb", "llama_index", "numpy", "PIL", "sklearn")
print(json.dumps({"seconds": seconds, "heavy": [name for name in heavy if name in sys.modules]}))
"""


def test_import_is_light_and_loads_nothing_heavy():
    run = [sys.executable, "-c", PROBE]
    results = [json.loads(subprocess.check_output(run)) for _ in range(3)]
    assert results[0]["heavy"] == []
    assert min(result["seconds"] for result in results) < 0.3


def test_use_of_the_rooms_patches_and_registers_nothing():
    """Only loading a model registers the attention functions, under names of our own."""
    probe = """
import transformers
from transformers import AttentionInterface
before = set(AttentionInterface._global_mapping)
import mrrag_llamaindex.steering.attention.registry, mrrag_llamaindex.integration.llm
assert set(AttentionInterface._global_mapping) == before
from mrrag_llamaindex.steering.attention.registry import register
register()
added = set(AttentionInterface._global_mapping) - before
assert added and all(name.startswith("mrrag_") for name in added), added
"""
    subprocess.run([sys.executable, "-c", probe], check=True)


@pytest.mark.parametrize("name", mrrag_llamaindex.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    assert getattr(mrrag_llamaindex, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mrrag_llamaindex.Nothing  # noqa: B018


def test_every_error_survives_the_stock_synthesizer():
    """It swallows ValueError and TypeError; ours must be RuntimeErrors and nothing else."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) > 5
    for one in classes:
        assert issubclass(one, RuntimeError)
        assert not issubclass(one, (ValueError, TypeError))
