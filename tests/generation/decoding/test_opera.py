"""The penalty by hand; without it the search is greedy, or transformers' own beam search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.decoding.opera import OPERA
from mrrag_llamaindex.generation.decoding.opera_search import AttentionRecorder
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.generation.runner import BatchCall
from mrrag_llamaindex.steering.ifa import IFA
from tests.tiny.families import write

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 14
REQUEST = PromptRequest(
    "Is there a nodule?",
    [
        PromptDocument("a", "No pleural effusion. The heart is of normal size.", 0.9),
        PromptDocument("b", "Report of other patients with similar images.", 0.1),
    ],
)

SHORT = PromptRequest("Is there a nodule?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def engines(folder) -> dict[str, LlavaEngine]:
    return {
        backend: LlavaEngine(
            load_model(str(folder), device="cpu", backend=backend), max_new_tokens=LENGTH
        )
        for backend in ("rows", "eager")
    }


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def tokens_of(engine, image, opera, limit=LENGTH, request=REQUEST):
    """The searched tokens themselves: decoding to text would hide differences."""
    from mrrag_llamaindex.generation.first_token import FirstTokenProbe

    read = engine.read_image(image)
    prompt = engine.prompt(request, read)
    (batch,) = engine._batches([prompt], [read])
    probe = FirstTokenProbe(engine.yes_ids, engine.no_ids)
    tokens = opera.run(engine.runner, BatchCall([prompt], [read], None, probe, limit, batch.shared))
    return tokens[0].tolist()


def stock_tokens(engine, image, request=REQUEST, **options):
    read = engine.read_image(image)
    prompt = engine.prompt(request, read)
    ids = torch.tensor([prompt.input_ids])
    options = {"do_sample": False, "max_new_tokens": LENGTH, "pad_token_id": 3, **options}
    with torch.inference_mode():
        output = engine.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **read.tensors, **options
        )
    return output[0, ids.shape[1] :].tolist()


# ---- the formula


def test_penalty_and_column_by_hand():
    attention = torch.tensor(
        [
            [[0.5, 9.0, 9.0], [0.4, 0.1, 9.0], [0.3, 0.2, 0.1]],
            [[0.1, 9.0, 9.0], [0.1, 0.5, 9.0], [0.1, 0.4, 0.2]],
        ]
    )
    penalty, column = OPERA(scale=10.0).over_trust(attention)
    # First: 5 * 4 * 3 = 60, 1 * 2 = 2, 1. Second: 1, 5 * 4 = 20, 2. Above the diagonal: unread.
    assert (penalty * 1e7).tolist() == pytest.approx([60.0, 20.0])
    assert column.tolist() == [0, 1]


def test_window_leaves_out_older_tokens():
    attention = torch.tensor([[[0.9, 0, 0], [0.9, 0.2, 0], [0.9, 0.3, 0.4]]])
    penalty, column = OPERA(scale=10.0, window=2).over_trust(attention)
    # Of tokens 1 and 2 only: 2 * 3 = 6 against 4; the column is counted from the first token.
    assert (penalty * 1e7).tolist() == pytest.approx([6.0])
    assert column.tolist() == [1]


def test_long_answers_leave_no_infinite_penalty():
    attention = torch.full((1, 512, 512), 0.9)
    penalty, _ = OPERA().over_trust(attention)
    assert torch.isfinite(penalty).all()
    assert OPERA().over_trust(torch.zeros(1, 12, 12))[0].item() == 0.0


def test_recorded_attention_is_the_renormalised_maximum_over_heads():
    recorder = AttentionRecorder()
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    logits = p.log()[None, :, None, :]  # (batch, heads, rows, columns)
    assert recorder.steer(logits, torch.ones(1)) is logits
    highest = torch.tensor([0.7, 0.6, 0.3])
    torch.testing.assert_close(recorder.last_row()[0], highest / highest.sum())
    recorder.steer(p.log().view(1, 1, 2, 1, 3), torch.ones(1))  # key heads, groups
    torch.testing.assert_close(recorder.last_row()[0], highest / highest.sum())


@pytest.mark.parametrize(
    "fields",
    [
        {"beams": 0},
        {"candidates": 0},
        {"candidates": 1.5},
        {"scale": 0.0},
        {"weight": -1.0},
        {"window": 1},
        {"recurrences": 0},
    ],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        OPERA(**fields)


# ---- the search


@pytest.mark.parametrize("backend", ["rows", "eager"])
def test_one_beam_and_one_candidate_is_greedy(engines, image, backend):
    engine = engines[backend]
    found = tokens_of(engine, image, OPERA(beams=1, candidates=1))
    assert found == stock_tokens(engine, image)
    (ours,) = engine.generate([REQUEST], [image], decoding=OPERA(beams=1, candidates=1, weight=0))
    (greedy,) = engine.generate([REQUEST], [image])
    assert ours.text == greedy.text
    assert (ours.p_yes, ours.p_no) == pytest.approx((greedy.p_yes, greedy.p_no), abs=1e-6)


@pytest.mark.parametrize(("beams", "ends"), [(2, 2), (3, (2, *range(30, 41)))])
def test_without_a_penalty_it_is_the_beam_search_of_transformers(engines, image, beams, ends):
    """With the whole vocabulary as candidates, so that nothing is renormalised."""
    engine = engines["rows"]
    kept = engine.model.generation_config.eos_token_id
    engine.model.generation_config.eos_token_id = list(ends) if isinstance(ends, tuple) else ends
    vocabulary = engine.model.config.get_text_config().vocab_size
    try:
        expected = stock_tokens(engine, image, SHORT, num_beams=beams, max_new_tokens=5)
        opera = OPERA(beams=beams, candidates=vocabulary, weight=0.0)
        assert tokens_of(engine, image, opera, limit=5, request=SHORT) == expected
    finally:
        engine.model.generation_config.eos_token_id = kept


def test_first_token_is_chosen_by_attention_to_the_image(engines, image):
    """Every candidate read for itself, in a plain eager pass that returns its attention."""
    engine, opera = engines["eager"], OPERA(beams=1, candidates=4, weight=30.0)
    read = engine.read_image(image)
    prompt = engine.prompt(REQUEST, read)
    ids = torch.tensor([prompt.input_ids])
    with torch.inference_mode():
        logits = engine.model(input_ids=ids, **read.tensors).logits[0, -1]
        scores = {}
        for token in logits.topk(4).indices.tolist():
            whole = torch.cat([ids, torch.tensor([[token]])], dim=1)
            attention = engine.model(
                input_ids=whole, **read.tensors, output_attentions=True
            ).attentions[-1]
            row = attention[0, :, -1].amax(0)
            mass = (row / row.sum())[slice(*prompt.image_span)].sum()
            scores[token] = float(logits[token] + 30.0 * mass)
    best = max(scores, key=scores.get)
    for engine in engines.values():
        assert tokens_of(engine, image, opera, limit=1) == [best]


def test_backends_agree_and_the_penalty_moves_the_answer(engines, image):
    opera = OPERA(beams=2, candidates=3, weight=20.0)
    one, two = (tokens_of(engine, image, opera) for engine in engines.values())
    assert one == two
    assert one != tokens_of(engines["rows"], image, replace(opera, weight=0.0))


def test_search_turns_back_and_chooses_another_token(engines, image, monkeypatch):
    """Forced: place 11 is returned to as soon as 13 tokens stand; what stood there is gone."""
    engine = engines["rows"]
    engine.model.generation_config.eos_token_id, kept = (
        None,
        engine.model.generation_config.eos_token_id,
    )
    opera = OPERA(beams=1, candidates=2, weight=0.0)
    try:
        plain = tokens_of(engine, image, opera)
        monkeypatch.setattr(
            OPERA, "place_to_return_to", lambda self, columns: 11 if len(columns) == 3 else None
        )
        turned = tokens_of(engine, image, opera)
        # Greedy with the two best tokens of that place forbidden, one after the other.
        monkeypatch.undo()
        shown = engine.read_image(image)
        ids = [*engine.prompt(REQUEST, shown).input_ids, *plain[:11]]
        with torch.inference_mode():
            logits = engine.model(input_ids=torch.tensor([ids]), **shown.tensors).logits[0, -1]
        assert plain[11] == int(logits.argmax())
        assert turned[:11] == plain[:11]
        assert turned[11] == logits.topk(3).indices[2]
        assert len(turned) == LENGTH
    finally:
        engine.model.generation_config.eos_token_id = kept


def test_prefix_is_shared_and_the_kept_one_is_not_written_to(engines, image):
    engine = engines["rows"]
    engine.runner.prefixes.clear()
    (before,) = engine.generate([REQUEST], [image])
    first = engine.generate([REQUEST], [image], decoding=OPERA(beams=3))[0]
    second = engine.generate([REQUEST], [image], decoding=OPERA(beams=3))[0]
    (after,) = engine.generate([REQUEST], [image])
    assert replace(before, seconds=0.0) == replace(after, seconds=0.0)
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    assert 0 < first.p_yes + first.p_no <= 1 + 1e-6


def test_questions_are_answered_in_order(engines, image):
    other = replace(REQUEST, question="Is the heart of normal size?")
    decoding = OPERA(beams=2, candidates=2)
    together = engines["rows"].generate([REQUEST, other], [image] * 2, decoding=decoding)
    for request, one in zip((REQUEST, other), together, strict=True):
        (alone,) = engines["rows"].generate([request], [image], decoding=decoding)
        assert replace(alone, seconds=0.0) == replace(one, seconds=0.0)


# ---- what is refused


def test_opera_is_not_combined_with_a_policy(engines, image):
    with pytest.raises(SteeringError, match="not combined with IFA"):
        engines["rows"].generate([REQUEST], [image], policy=IFA(), decoding=OPERA())


def test_prompt_without_an_image_is_refused(engines):
    with pytest.raises(SteeringError, match="holds none"):
        engines["rows"].generate([REQUEST], [None], decoding=OPERA())


def test_backend_without_attention_is_refused(engines, image, monkeypatch):
    engine = engines["rows"]
    text = engine.model.config.get_text_config(decoder=True)
    monkeypatch.setattr(text, "_attn_implementation_internal", "mrrag_ifa_flex")
    with pytest.raises(SteeringError, match="backend='rows' or 'eager'"):
        engine.generate([REQUEST], [image], decoding=OPERA())
