"""Lay the steering of prompts over a batch, in the layers of one model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.loading import LoadedModel
from mrrag_llamaindex.generation.request import Prompt
from mrrag_llamaindex.steering.checks import sliding_window
from mrrag_llamaindex.steering.plan import IFA, PromptSpans, SteeringPlan


class Planner:
    """Steering plans for one model.

    Parameters
    ----------
    loaded : LoadedModel
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        text = loaded.model.config.get_text_config(decoder=True)
        self.layers = int(text.num_hidden_layers)
        self.sliding_window = sliding_window(text)
        kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * self.layers
        self._near_sighted = [n for n, kind in enumerate(kinds) if kind != "full_attention"]

    def plan(
        self, prompts: Sequence[Prompt], ifa: IFA | None, shared: int = 0
    ) -> tuple[SteeringPlan | None, tuple[int, ...]]:
        """Lay the steering of several prompts over one batch.

        Parameters
        ----------
        prompts : sequence of Prompt
        ifa : IFA or None
        shared : int
            Tokens at the start that the prompts have in common and that stay unpadded.

        Returns
        -------
        plan : SteeringPlan or None
            None if there is nothing to steer.
        layers : tuple of int
            The layers that were meant.
        """
        if ifa is None:
            return None, ()
        if not any(document.relevance for prompt in prompts for document in prompt.documents):
            return None, ()
        layers = self.layers_for(ifa)
        self._check_reach(prompts, layers)
        plan = SteeringPlan.build(
            [
                PromptSpans(prompt.document_spans, prompt.question_span, len(prompt.input_ids))
                for prompt in prompts
            ],
            [[document.relevance for document in prompt.documents] for prompt in prompts],
            ifa,
            layers,
            max(len(prompt.input_ids) for prompt in prompts),
            self.loaded.model.device,
            shared_prefix=shared,
        )
        return (plan if plan.is_active else None), layers

    def layers_for(self, ifa: IFA) -> tuple[int, ...]:
        """Return the layers that ``ifa`` steers in this model.

        Raises
        ------
        SteeringError
            If it names a layer that the model does not have.
        """
        if ifa.layers is None:
            if not self.loaded.layers_are_known:
                warnings.warn(
                    f"no critical layers are known for model {self.loaded.source!r}: steering the "
                    f"middle third, {list(self.loaded.critical_layers)}; name others with "
                    "IFA(layers=...)",
                    stacklevel=2,
                )
            return self.loaded.critical_layers
        beyond = [layer for layer in ifa.layers if layer >= self.layers]
        if beyond:
            raise SteeringError(
                f"IFA names layer {beyond[0]}, and the model has {self.layers} layers"
            )
        return ifa.layers

    def _check_reach(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> None:
        """Say so where a sliding window keeps the question from seeing the documents."""
        window = self.sliding_window
        if window is None:
            return
        blind = [layer for layer in layers if layer in self._near_sighted]
        far = [
            prompt.document_spans[0][0] + window <= prompt.question_span[1]
            for prompt in prompts
            if prompt.documents
        ]
        if blind and any(far):
            warnings.warn(
                f"layers {blind} look back {window} tokens, and some documents stand farther from "
                "the question: steering does not reach those there; name other layers with "
                "IFA(layers=...)",
                stacklevel=3,
            )
