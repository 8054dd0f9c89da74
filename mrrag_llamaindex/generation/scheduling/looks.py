"""Watch where the questions of a batch look, in the pass that answers them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mrrag_llamaindex.generation.answer import AttentionTrace
from mrrag_llamaindex.generation.prompt.request import Prompt
from mrrag_llamaindex.steering.watch import AttentionWatch


def watch_questions(
    prompts: Sequence[Prompt], layers: tuple[int, ...], shared: int
) -> AttentionWatch:
    """Watch the question's rows of every prompt of a batch, see `traced`.

    Parameters
    ----------
    prompts : sequence of Prompt
    layers : tuple of int
    shared : int
        Tokens that all of them share.
    """
    # As many parts for every prompt: documents, then image and question.
    most = max(len(prompt.documents) for prompt in prompts)
    parts = [[(0, 0)] * (most - len(prompt.documents)) + parts_of(prompt) for prompt in prompts]
    lengths = [len(prompt.input_ids) for prompt in prompts]
    rows = [[prompt.question_span] for prompt in prompts]
    return AttentionWatch.over(rows, parts, layers, lengths, shared)


def traced(watch: AttentionWatch) -> list[AttentionTrace]:
    """Return the shares of every prompt that `watch_questions` watched."""
    if any(layer not in watch.seen for layer in watch.layers):
        return [AttentionTrace(reason="attention was not formed in this pass")] * len(watch.rows)
    mean = torch.stack([watch.seen[layer] for layer in watch.layers]).mean(0)[:, 0].tolist()
    return [
        AttentionTrace(
            image=image,
            documents=sum(documents),
            question=question,
            rest=max(0.0, 1 - sum(documents) - image - question),
            layers=watch.layers,
            reason="",
        )
        for *documents, image, question in mean
    ]


def parts_of(prompt: Prompt) -> list[tuple[int, int]]:
    """Return the parts of a prompt that are told apart: its documents, its image, its question."""
    return [*prompt.document_spans, prompt.image_span or (0, 0), prompt.question_span]
