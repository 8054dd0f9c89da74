"""Real cases that are shipped: small, attributed, and enough for the whole path."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.evaluation.data.readers.vqa_rad import statement
from mrrag_llamaindex.evaluation.votes.demo import run_real_demo
from mrrag_llamaindex.evaluation.votes.shipped import (
    CASES,
    ShippedTowers,
    shipped_features,
    shipped_questions,
)
from mrrag_llamaindex.images.load import load_image
from mrrag_llamaindex.store.protocol import PairStore


def test_the_files_are_small_and_say_where_they_come_from():
    files = [path for path in CASES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    text = (CASES / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for word in ("VQA-RAD", "CC0", "10.1038/sdata.2018.251", "MedPix"):
        assert word in text
    shown = {path.name for path in (CASES / "images").iterdir()}
    asked = shipped_questions()
    assert shown == {f"{q.patient_id}.jpg" for q in (*asked.training, *asked.test)}
    assert not asked.problems
    assert len(shown) == 100


def test_vectors_are_looked_up_and_nothing_else_is_known():
    towers, asked = ShippedTowers(), shipped_questions()
    question = asked.training[0]
    image = load_image(str(question.image), what="image")
    (made,) = towers.embed_images([image])
    text, other = towers.embed_texts([question.question, statement(question)])
    assert np.linalg.norm(made) == pytest.approx(1, abs=1e-5)
    assert made @ text == 0  # an image and a text are in different spaces
    assert text @ other > 0.5
    assert towers.identity == ShippedTowers().identity
    with pytest.raises(TowerError, match="none of the shipped"):
        towers.embed_images([Image.new("RGB", (64, 64))])
    with pytest.raises(InputError, match="none of the shipped"):
        towers.embed_texts(["Is this text known?"])


def test_features_are_those_of_every_question():
    data = shipped_features()
    assert len(data.images) == 100
    assert data.queries.shape == (len(data.questions), 128)
    assert data.statements.shape == (data.training, 128)
    assert "beforehand" in data.encoders


@pytest.mark.slow
def test_the_demo_asks_a_store_of_real_cases_and_never_the_questions_own(tmp_path):
    demo = run_real_demo(tmp_path, seed=0, say=lambda text: None)
    told = json.loads(json.dumps(demo.as_dict()))
    own = demo.image.stem
    with PairStore.open(demo.store) as store:
        assert len(store) == demo.pairs
        voters = store.get([source["pair_id"] for source in told["sources"]])
        for source in told["sources"]:
            pair = voters[source["pair_id"]]
            assert pair.patient_id != own
            assert pair.metadata["answer"] == source["answer"]
        assert any(pair.patient_id == own for pair in store.get([f"train-{q.question_id}" for q in
                   shipped_questions().training]).values())  # fmt: skip
    assert told["truth"].lower() in ("yes", "no")
    assert told["p_yes"] + told["p_no"] == pytest.approx(1)
    assert told["right"] is (told["answer"].lower() == told["truth"].lower())
    with Image.open(told["picture"]) as picture:
        assert min(picture.size) > 600
    again = run_real_demo(tmp_path, seed=0, say=lambda text: None)
    assert again.as_dict()["sources"] == told["sources"]
