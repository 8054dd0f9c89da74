"""OPERA: beam search with a penalty on over-trust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.decoding.decoding import Decoding
from mrrag_llamaindex.generation.decoding.opera_search import OperaSearch
from mrrag_llamaindex.generation.decoding.opera_settings import OperaSettings
from mrrag_llamaindex.steering.attention.call_checks import sliding_window
from mrrag_llamaindex.steering.attention.registry import BACKENDS

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.runner import BatchCall, BatchRunner


@dataclass(frozen=True)
class OPERA(OperaSettings, Decoding):
    """Beam search that shuns tokens whose attention piles up on one earlier token of the answer.

    For the `candidates` likeliest next tokens of every beam, the last layer's attention of that
    token is taken: maximum over heads, renormalised to sum 1. With ``W_ic`` that of response token
    `i` to response token `c`, a column's score is ``phi_c = 1e-7 * prod_{i >= c} scale * W_ic``,
    and the candidate's logit loses ``weight * max_c phi_c``. For the first ten tokens it gains
    ``weight`` times its attention mass on the image instead, so this is all that acts on a
    yes/no answer. Only the candidates survive, renormalised (OPERA, Huang et al., CVPR 2024).

    If the leading beam's highest column has been the same more than `recurrences` times, the
    search goes back to the token after it and forbids the one that stood there, at most
    `candidates` times per place and never within the first ten tokens.

    Used as ``engine.generate(..., decoding=OPERA())``, with ``policy=None``; it answers one
    question at a time.

    Its fields are those of `OperaSettings`.
    """

    batch_size: ClassVar[int] = 1
    takes_policy: ClassVar[bool] = False

    def run(self, runner: BatchRunner, call: BatchCall) -> torch.Tensor:
        """Answer one prompt; its probe records penalised probabilities. See `Decoding.run`.

        Raises
        ------
        SteeringError
            If the model's backend hands out no attention, the prompt holds no image, or the model
            does not see all of it.
        """
        (prompt,), (image,) = call.prompts, call.images
        text = runner.model.config.get_text_config(decoder=True)
        readable = {BACKENDS[name].registered for name in ("rows", "eager")}
        if text._attn_implementation not in readable:
            raise SteeringError(
                "OPERA reads the attention of the last layer, which this model's backend does not "
                "hand out; load the model with backend='rows' or 'eager'"
            )
        if prompt.image_span is None:
            raise SteeringError(
                "OPERA chooses the first tokens by their attention to the query image, and this "
                "prompt holds none; give the request an image, or decode without OPERA"
            )
        sight = sliding_window(text)
        if sight is not None and len(prompt.input_ids) + call.max_new_tokens > sight:
            raise SteeringError(
                f"OPERA reads the attention to the whole prompt, and the model looks back {sight} "
                "tokens only; use a model without a sliding window"
            )
        with runner.alone():
            cache, logits = runner.prefill(prompt.input_ids, image, call.shared)
            search = OperaSearch(runner.model, self, prompt, cache, call.max_new_tokens)
            return torch.tensor([search.run(logits, call.probe)])
