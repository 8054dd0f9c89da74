"""What OPERA needs of a model: its prompt, and tokens behind it with the attention they pay."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.checkpoints.image_readers import QueryImage
from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
from mrrag_llamaindex.generation.decoding.opera import OPERA
from mrrag_llamaindex.generation.decoding.opera_search import OperaSearch
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.guards import person_readable
from mrrag_llamaindex.generation.prefix_cache import fork
from mrrag_llamaindex.generation.prompt.batching import Batch
from mrrag_llamaindex.generation.prompt.inputs import pad_batch
from mrrag_llamaindex.generation.prompt.request import Prompt
from mrrag_llamaindex.generation.runner import BatchRunner
from mrrag_llamaindex.steering.attention.call_checks import sliding_window
from mrrag_llamaindex.steering.attention.registry import BACKENDS
from mrrag_llamaindex.steering.plan import SteeringPlan


class AttentionRecorder:
    """A policy that changes nothing and keeps the logits that it is shown."""

    def __init__(self) -> None:
        self._logits: torch.Tensor | None = None

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Keep the logits (batch, heads in one axis or two, rows, columns) and return them."""
        self._logits = logits
        return logits

    def last_row(self) -> torch.Tensor:
        """Attention of the last row: maximum over heads, renormalised; float32 (batch, columns)."""
        if self._logits is None:
            raise SteeringError("the last layer handed out no attention; load another model")
        heads = self._logits[..., -1, :].flatten(1, -2).float().softmax(dim=-1)
        highest = heads.amax(dim=1)
        return highest / highest.sum(dim=-1, keepdim=True)


class OperaRunner(BatchRunner):
    """Run prompts through a model one by one, with OPERA's beam search.

    The last layer's attention comes through the steering hook, of the rows asked for only: the
    other rows and layers keep the stock kernel, and no attention matrix is returned.

    Parameters
    ----------
    loaded : LoadedModel
    other : BatchRunner
        The runner whose lock and prefixes are shared.

    Raises
    ------
    SteeringError
        If the model's backend hands out no attention.
    """

    def __init__(self, loaded: LoadedModel, other: BatchRunner) -> None:
        super().__init__(loaded, other.prefixes)
        self._lock = other._lock
        text = self.model.config.get_text_config(decoder=True)
        if text._attn_implementation not in (BACKENDS["rows"], BACKENDS["eager"]):
            raise SteeringError(
                "OPERA reads the attention of the last layer, which this model's backend does not "
                "hand out; load the model with backend='rows' or 'eager'"
            )
        self._sight = sliding_window(text)
        self._last_layer = int(text.num_hidden_layers) - 1
        ends = self.model.generation_config.eos_token_id
        self.ends = {ends} if isinstance(ends, int) else set(ends or ())

    def search(
        self,
        opera: OPERA,
        batch: Batch,
        prompt: Prompt,
        image: QueryImage | None,
        probe: FirstTokenProbe,
        max_new_tokens: int,
    ) -> torch.Tensor:
        """Generate one answer.

        Parameters
        ----------
        opera : OPERA
        batch : Batch
            Of this prompt alone.
        prompt : Prompt
        image : QueryImage or None
        probe : FirstTokenProbe
            Filled in with the penalised probabilities, over the whole vocabulary.
        max_new_tokens : int

        Returns
        -------
        torch.Tensor
            int64 (1, tokens).

        Raises
        ------
        SteeringError
            If the prompt holds no image, or the model does not see all of it.
        ModelError
            If the model fails.
        """
        if prompt.image_span is None:
            raise SteeringError(
                "OPERA chooses the first tokens by their attention to the query image, and this "
                "prompt holds none; give the request an image, or decode without OPERA"
            )
        if self._sight is not None and len(prompt.input_ids) + max_new_tokens > self._sight:
            raise SteeringError(
                f"OPERA reads the attention to the whole prompt, and the model looks back "
                f"{self._sight} tokens only; use a model without a sliding window"
            )
        with person_readable(), self._lock, torch.inference_mode():
            prompt_cache, logits = self._prefill(batch, prompt, image)
            search = OperaSearch(self, opera, prompt, prompt_cache, max_new_tokens)
            tokens = search.run(logits, probe)
        return torch.tensor([tokens])

    def _prefill(
        self, batch: Batch, prompt: Prompt, image: QueryImage | None
    ) -> tuple[DynamicCache, torch.Tensor]:
        inputs = pad_batch([prompt.input_ids], 0)
        if batch.shared:
            prefix = self._prefix(prompt.input_ids[: batch.shared], image)
            cache = fork(prefix, 1, self.model.config)
            inputs["input_ids"] = inputs["input_ids"][:, batch.shared :]
        else:
            cache = DynamicCache(config=self.model.config)
            inputs |= self._seen(inputs["input_ids"], [image])
        output = self.model(
            **self._placed(inputs), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return cache, output.logits[:, -1].float()

    def forward(self, tokens: torch.Tensor, cache: DynamicCache) -> tuple[torch.Tensor, Any]:
        """Read one token per row; return logits and the last row's attention, see above."""
        recorder, rows = AttentionRecorder(), len(tokens)
        plan = SteeringPlan(
            torch.ones(rows, 1),
            torch.ones(rows, 1, dtype=torch.bool),
            frozenset({self._last_layer}),
            policy=recorder,
            every_step=True,
        )
        return self.reread(tokens[:, None], cache, plan), recorder.last_row()

    def reread(
        self, tokens: torch.Tensor, cache: DynamicCache, plan: SteeringPlan | None = None
    ) -> torch.Tensor:
        """Read tokens (rows, n) behind a cache; logits of the last one, float32."""
        # No row is padded, so the model needs no mask but the causal one, which it builds.
        output = self.model(
            input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            steering=plan,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits
