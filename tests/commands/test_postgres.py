"""The same commands and the same three lines, with the pairs in PostgreSQL."""

from __future__ import annotations

import json
import shutil

import pytest
from llama_index.core.schema import QueryBundle

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA, query_image
from mrrag_llamaindex.phantom.demo import FUSION_FILE
from mrrag_llamaindex.store.learned_files import learned_text
from mrrag_llamaindex.store.protocol import PairStore
from tests.commands.elsewhere import same_as_in_a_folder
from tests.store.postgres_server import PASSWORD


@pytest.mark.slow
def test_commands_do_with_a_database_what_they_do_with_a_folder(mrrag, corpus, postgres) -> None:
    postgres.execute("CREATE DATABASE commands")
    url = postgres.url(database="commands")
    said = same_as_in_a_folder(mrrag, corpus, url)
    said.append(mrrag("verify", url, "--collection", "absent"))
    assert said[-1].code == 2, said[-1].err
    for result in said:
        for part in (PASSWORD, url, "secret"):
            assert part not in result.out + result.err


@pytest.mark.slow
def test_three_lines_and_what_was_learned_go_along_with_a_copied_store(
    mrrag, corpus, postgres, tmp_path
) -> None:
    postgres.execute("CREATE DATABASE copied")
    url = postgres.url(database="copied")
    folder = tmp_path / "store"
    shutil.copytree(corpus.store, folder)
    (folder / FUSION_FILE).write_text(
        json.dumps(
            {"image_text": 0.5, "image_image": 1.5, "text_text": 2.0, "towers_identity": None}
        )
    )
    copied = mrrag("store", "copy", folder, url)
    assert copied.code == 0, copied.err
    assert "secret" not in copied.out + copied.err
    with PairStore.open(url) as store:
        assert learned_text(store, FUSION_FILE) == (folder / FUSION_FILE).read_text()
    index = MRRAGIndex.from_store(url)
    engine = index.as_query_engine(llm=MRRAGLLaVA(model="phantom"))
    with query_image(corpus.image):
        response = engine.query(QueryBundle(corpus.question))
    assert response.source_nodes
    index.store.close()
