"""Questions for a model with the phantom's vocabulary: each about its own image and reports."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.phantom.tokenizer import SPECIAL_TOKENS, vocabulary

REPORT_TOKENS = 145
"""Of one report: six of them, an image of 576 tokens and a question make 1,500."""


def question_about(
    patient: int, *, documents: int = 6, report_tokens: int = REPORT_TOKENS
) -> tuple[PromptRequest, Image.Image]:
    """Draw one request and its image; equal for equal arguments, and for no two patients."""
    rng = np.random.default_rng(patient)
    words = [word for word in vocabulary() if word not in SPECIAL_TOKENS]
    reports = [
        PromptDocument(
            f"{patient}/{number}", " ".join(rng.choice(words, report_tokens)), 1.0 - number / 20
        )
        for number in range(documents)
    ]
    question = " ".join(rng.choice(words, 8))
    pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    return PromptRequest(question, reports), Image.fromarray(pixels).resize((336, 336))
