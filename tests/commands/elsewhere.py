"""The commands on a store that is no folder, against the same on a folder."""

from __future__ import annotations

import json
from typing import Any


def same_as_in_a_folder(mrrag: Any, corpus: Any, url: str) -> list[Any]:
    """Ingest twice, ask, verify and look; return what was said.

    Everything ends well, nothing is stored twice, and answer and ranking are those of the folder.
    """
    asked = ("--image", corpus.image, "--model", "phantom", "--json", corpus.question)
    said = [
        mrrag("ingest", corpus.table, "--store", url, "--towers", "phantom", "--json"),
        mrrag("ingest", corpus.table, "--store", url, "--towers", "phantom", "--json"),
        mrrag("ask", "--store", url, *asked),
        mrrag("verify", url, "--json"),
        mrrag("verify", url),
        mrrag("status", url, "--json"),
    ]
    assert [result.code for result in said] == [0] * 6, [result.err for result in said]
    first, second, answer, verified = (json.loads(result.out) for result in said[:4])
    assert first["added"] == second["unchanged"] == verified["pairs"] > 0
    status = json.loads(said[5].out)
    assert (status["pairs"], status["patients"]) == (verified["pairs"], 24)
    folder = json.loads(mrrag("ask", "--store", corpus.store, *asked).out)
    assert answer["answer"] == folder["answer"]
    ranked = [(source["pair_id"], round(source["score"], 4)) for source in folder["sources"]]
    assert ranked == [(s["pair_id"], round(s["score"], 4)) for s in answer["sources"]]
    return said
