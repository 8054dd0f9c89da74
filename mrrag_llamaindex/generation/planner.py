"""Lay the steering of prompts over a batch, in the layers of one model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.prompt.readable import ReadableModel
from mrrag_llamaindex.generation.prompt.request import Prompt
from mrrag_llamaindex.steering.attention.call_checks import sliding_window
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policy import SteeringPolicy


class Planner:
    """Steering plans for one model.

    Parameters
    ----------
    loaded : ReadableModel
    device : torch.device or str
        Of the plans that are laid over batches.
    """

    def __init__(self, loaded: ReadableModel, device: Any = "cpu") -> None:
        self.loaded = loaded
        self.device = device
        text = loaded.config.get_text_config(decoder=True)
        self.depth = int(text.num_hidden_layers)
        self.sliding_window = sliding_window(text)
        kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * self.depth
        self._near_sighted = [n for n, kind in enumerate(kinds) if kind != "full_attention"]

    def plan(
        self, prompts: Sequence[Prompt], policy: SteeringPolicy | None, shared: int = 0
    ) -> tuple[SteeringPlan | None, tuple[int, ...]]:
        """Lay the steering of several prompts over one batch.

        Parameters
        ----------
        prompts : sequence of Prompt
        policy : SteeringPolicy or None
        shared : int
            Tokens at the start that the prompts have in common and that stay unpadded.

        Returns
        -------
        plan : SteeringPlan or None
            None if there is nothing to steer.
        layers : tuple of int
            The layers that were meant.

        Raises
        ------
        SteeringError
            If the policy steers towards the image and a prompt has none, or names a layer that
            the model does not have.
        """
        layers = self.layers(prompts, policy)
        return self.lay(prompts, policy, layers, shared), layers

    def lay(
        self,
        prompts: Sequence[Prompt],
        policy: SteeringPolicy | None,
        layers: Sequence[int],
        shared: int = 0,
    ) -> SteeringPlan | None:
        """Lay a policy over one batch, in layers that `layers` returned."""
        if policy is None or not layers:
            return None
        plan = SteeringPlan.build(
            [prompt.spans for prompt in prompts],
            [prompt.lambdas for prompt in prompts],
            policy,
            layers,
            max(len(prompt.input_ids) for prompt in prompts),
            self.device,
            shared_prefix=shared,
        )
        return plan if plan.is_active else None

    def layers(self, prompts: Sequence[Prompt], policy: SteeringPolicy | None) -> tuple[int, ...]:
        """Return the layers in which these prompts are to be steered; none without a reason to.

        Raises
        ------
        SteeringError
            As `plan`.
        """
        if policy is None:
            return ()
        if policy.needs_image and any(prompt.image_span is None for prompt in prompts):
            raise SteeringError(
                f"{type(policy).__name__} steers towards the query image, and this prompt holds "
                "none; give the request an image and use a model that reads images, or choose "
                "another policy"
            )
        if not any(policy.columns(prompt.spans, prompt.lambdas) for prompt in prompts):
            return ()
        layers = self.layers_for(policy)
        if policy.checks_reach:
            self._check_reach(prompts, layers, policy)
        return layers

    def layers_for(self, policy: SteeringPolicy) -> tuple[int, ...]:
        """Return the layers that ``policy`` steers in this model.

        Raises
        ------
        SteeringError
            If it names a layer that the model does not have.
        """
        name = type(policy).__name__
        if policy.layers is None:
            of_its_own = policy.default_layers(self.depth)
            if of_its_own is not None:
                return of_its_own
            if not self.loaded.layers_are_known:
                warnings.warn(
                    f"no critical layers are known for model {self.loaded.source!r}: steering the "
                    f"middle third, {list(self.loaded.critical_layers)}; name others with "
                    f"{name}(layers=...)",
                    stacklevel=1,  # the host may be any number of frames above
                )
            return self.loaded.critical_layers
        beyond = [layer for layer in policy.layers if layer >= self.depth]
        if beyond:
            raise SteeringError(
                f"{name} names layer {beyond[0]}, and the model has {self.depth} layers"
            )
        return policy.layers

    def _check_reach(
        self, prompts: Sequence[Prompt], layers: Sequence[int], policy: SteeringPolicy
    ) -> None:
        """Say so where a sliding window keeps the question from seeing the documents."""
        window = self.sliding_window
        if window is None:
            return
        blind = [layer for layer in layers if layer in self._near_sighted]
        far = [
            prompt.document_spans[0][0] + window <= policy.rows(prompt.spans)[1]
            for prompt in prompts
            if prompt.documents
        ]
        if blind and any(far):
            warnings.warn(
                f"layers {blind} look back {window} tokens, and some documents stand farther from "
                "the question: steering does not reach those there; name other layers with "
                f"{type(policy).__name__}(layers=...)",
                stacklevel=1,  # the host may be any number of frames above
            )
