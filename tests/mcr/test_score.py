"""The score of Eq. 1: hand arithmetic, and the identity that lets one vector stand for a pair."""

from __future__ import annotations

import numpy as np
import pytest

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.mcr.score import (
    HEAD_TERMS,
    FusionWeights,
    document_vector,
    fuse,
    fused_query,
    similarity_terms,
)

# q_i . d_t = .6*0 + .8*1 = .8;  q_i . d_i = .6*1 + .8*0 = .6;  q_t . d_t = -1*0 + 0*1 = 0
Q_IMAGE, Q_TEXT = [0.6, 0.8], [-1.0, 0.0]
D_IMAGE, D_TEXT = [1.0, 0.0], [0.0, 1.0]


def test_terms_are_the_three_inner_products_in_order() -> None:
    terms = similarity_terms(Q_IMAGE, Q_TEXT, D_IMAGE, D_TEXT)
    np.testing.assert_allclose(terms, [0.8, 0.6, 0.0])


def test_fused_score_is_the_weighted_sum() -> None:
    # 2*.8 + (-.5)*.6 + 3*0 = 1.3
    assert fuse([0.8, 0.6, 0.0], FusionWeights(2.0, -0.5, 3.0)) == pytest.approx(1.3)


def test_fourth_term_is_question_text_with_pair_image() -> None:
    # q_t . d_i = -1*1 + 0*0 = -1; 2*.8 - .5*.6 + 3*0 + .25*-1 = 1.05
    terms = similarity_terms(Q_IMAGE, Q_TEXT, D_IMAGE, D_TEXT, terms=HEAD_TERMS)
    np.testing.assert_allclose(terms, [0.8, 0.6, 0.0, -1.0])
    assert fuse(terms, FusionWeights(2.0, -0.5, 3.0, 0.25)) == pytest.approx(1.05)


def test_without_the_fourth_weight_nothing_changes_to_the_last_bit(units) -> None:
    q_image, q_text = units(2, 64, seed=1)
    documents = units(50, 64, seed=2), units(50, 64, seed=3)
    three = similarity_terms(q_image, q_text, *documents)
    four = similarity_terms(q_image, q_text, *documents, terms=HEAD_TERMS)
    weights = FusionWeights(0.9, -0.3, 2.2)
    assert np.array_equal(three, four[:, :3])
    plain = three @ np.array([0.9, -0.3, 2.2])
    assert np.array_equal(fuse(three, weights), plain)
    assert np.array_equal(fuse(four, weights), plain)
    fused = fused_query(q_image, q_text, weights)
    image, text = q_image.astype(float), q_text.astype(float)
    lower = 0.9 * image + 2.2 * text
    assert np.array_equal(fused, np.concatenate([-0.3 * image, lower]).astype(np.float32))


def test_weight_on_a_term_that_was_not_computed_is_refused() -> None:
    with pytest.raises(InputError, match="ALL_TERMS"):
        fuse([0.8, 0.6, 0.0], FusionWeights(1, 1, 1, 0.5))


@pytest.mark.parametrize(
    "weights",
    [
        (1, 1, 1),
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (0.9, 0.05, 2.2),
        (1, -0.3, 1),
        (-2, -1, -0.5),
        (0, 0, 0, 1),
        (0.9, 0.05, 2.2, -0.7),
    ],
)
def test_one_inner_product_equals_the_sum_of_terms(weights, units) -> None:
    q_image, q_text = units(2, 64, seed=1)
    d_image, d_text = units(50, 64, seed=2), units(50, 64, seed=3)
    d_image[7] = 0  # no image
    d_text[8] = 0  # no report
    fusion = FusionWeights(*weights)
    inner = document_vector(d_image, d_text) @ fused_query(q_image, q_text, fusion)
    terms = similarity_terms(q_image, q_text, d_image, d_text, terms=HEAD_TERMS)
    summed = fuse(terms, fusion)
    np.testing.assert_allclose(inner, summed, atol=1e-5)


def test_missing_halves_give_terms_of_exactly_zero(units) -> None:
    q_image, q_text = units(2, seed=4)
    d_image, d_text = units(2, seed=5)
    no_image = similarity_terms(q_image, q_text, np.zeros(8), d_text)
    assert no_image[1] == 0.0
    assert no_image[0] != 0.0
    no_question_image = similarity_terms(None, q_text, d_image, d_text)
    assert no_question_image[:2].tolist() == [0.0, 0.0]
    assert not np.signbit(similarity_terms(None, q_text, -abs(d_image), -abs(d_text))[:2]).any()


def test_question_without_text_equals_weight_zero_on_text(units) -> None:
    q_image, q_text = units(2, seed=6)
    without = fused_query(q_image, None, FusionWeights(1.5, 0.5, 3.0))
    weighted = fused_query(q_image, q_text, FusionWeights(1.5, 0.5, 0.0))
    np.testing.assert_array_equal(without, weighted)


def test_question_with_neither_half_is_refused() -> None:
    with pytest.raises(InputError, match="neither"):
        fused_query(None, None, FusionWeights())


def test_vectors_of_two_lengths_are_refused(units) -> None:
    with pytest.raises(InputError, match="query text vector has shape"):
        similarity_terms(units(1, 8)[0], units(1, 9)[0], units(3, 8), units(3, 8))
    with pytest.raises(InputError, match="document halves"):
        document_vector(units(3, 8), units(2, 8))
