"""The same commands and the same three lines, with the pairs in another engine."""

from __future__ import annotations

import json
import os
import shutil
import uuid

import pytest
from llama_index.core.schema import QueryBundle

from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA, query_image
from mrrag_llamaindex.store.learned_files import FUSION_FILE
from tests.commands.elsewhere import same_as_in_a_folder

PLACES = ["milvus:{}/store.db", "qdrant:{}/store"]
PLACES += [
    f"{engine}+{address}/c{uuid.uuid4().hex}"
    for engine in ("qdrant", "milvus")
    if (address := os.environ.get(f"MRRAG_TEST_{engine.upper()}"))
]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_commands_do_there_what_they_do_with_a_folder(mrrag, corpus, tmp_path, place) -> None:
    url = place.format(tmp_path)
    same_as_in_a_folder(mrrag, corpus, url)
    engine = MRRAGIndex.from_store(url).as_query_engine(llm=MRRAGLLaVA(model="phantom"))
    with query_image(corpus.image):
        assert engine.query(QueryBundle(corpus.question)).source_nodes


@pytest.mark.slow
def test_what_was_learned_goes_along_and_comes_back(mrrag, corpus, tmp_path) -> None:
    folder, url, back = tmp_path / "store", f"milvus:{tmp_path}/m.db", tmp_path / "back"
    shutil.copytree(corpus.store, folder)
    weights = {"image_text": 0.5, "image_image": 1.5, "text_text": 2.0}
    (folder / FUSION_FILE).write_text(json.dumps(weights))
    for source, target in ((folder, url), (url, back)):
        result = mrrag("store", "copy", source, target)
        assert result.code == 0, result.err
        assert "went along" in result.out
    assert (back / FUSION_FILE).read_text() == (folder / FUSION_FILE).read_text()
    with MRRAGIndex.from_store(url).store as store, MRRAGIndex.from_store(back).store as other:
        assert store.pair_ids() == other.pair_ids()
    assert MRRAGIndex.from_store(url).weights.as_dict()["image_image"] == 1.5
