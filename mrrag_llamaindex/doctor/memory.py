"""How much memory a generator needs: counted from a model without memory, nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.quantization import is_text_layer, quantized_bytes

REPORT_TOKENS: Final = 100
"""Tokens of one report: chest reports have about 76 words."""

FRAME_TOKENS: Final = 150
"""Tokens of the question and of the sentences around the documents."""

QUESTION_ROWS: Final = 50
"""Rows that are steered, for the estimate of working memory."""

ALLOCATOR: Final = 1.25
"""Factor on working memory: allocators round up, and freed blocks do not always fit again."""

_TEXT, _VISION, _PROJECTOR = "text", "vision tower", "projector"


@dataclass(frozen=True)
class PromptShape:
    """The longest batch that is expected.

    Parameters
    ----------
    image_tokens : int
        Image features in one prompt.
    patches : int
        Positions inside the vision tower for one image; 0 for a text-only model.
    documents, batch_size, answer_tokens : int
    """

    image_tokens: int
    patches: int
    documents: int = defaults.MAX_DOCUMENTS
    batch_size: int = defaults.BATCH_SIZE
    answer_tokens: int = defaults.MAX_NEW_TOKENS

    @property
    def prompt_tokens(self) -> int:
        """Tokens of one prompt, estimated for reports of about `REPORT_TOKENS`."""
        return self.image_tokens + FRAME_TOKENS + self.documents * REPORT_TOKENS

    @property
    def tokens(self) -> int:
        """Tokens of one prompt and its answer."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a model takes at work.

    Attributes
    ----------
    weights : int
        Parameters and buffers; exact.
    cache_per_token : int
        Keys and values of one token.
    cache : int
        Keys and values of a whole batch and of the kept prefixes; exact for those lengths.
    working : int
        An estimate of what the prefill of that batch takes besides.
    """

    weights: int
    cache_per_token: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.working


@dataclass(frozen=True)
class ModelSize:
    """Numbers of one model, whatever type they will be loaded in.

    Attributes
    ----------
    parameters : mapping of str to int
        By part: ``"vision tower"``, ``"projector"``, ``"text"``.
    config : PretrainedConfig
        Of the whole model.
    floating : int
        Parameters whose type is the one that is asked for.
    fixed : int
        Bytes of all others and of the buffers.
    matrices : tuple of (int, int)
        Shapes of the text layers' weight matrices, which can be quantised.
    """

    parameters: Mapping[str, int]
    config: Any
    floating: int
    fixed: int
    matrices: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, model: Any) -> ModelSize:
        """Count a model; meant for one on the meta device, which holds no numbers."""
        parts = {_VISION: 0, _PROJECTOR: 0, _TEXT: 0}
        floating, fixed, matrices = 0, sum(buffer.nbytes for buffer in model.buffers()), []
        for name, value in model.named_parameters():
            parts[_part(name)] += value.numel()
            if value.dtype == model.dtype:
                floating += value.numel()
            else:
                fixed += value.nbytes
            if is_text_layer(name) and value.ndim == 2:
                matrices.append((int(value.shape[0]), int(value.shape[1])))
        return cls(parts, model.config, floating, fixed, tuple(matrices))

    @property
    def text_config(self) -> Any:
        """Configuration of the text model."""
        return self.config.get_text_config(decoder=True)

    def need(self, dtype: torch.dtype, quantization: str | None, prompt: PromptShape) -> MemoryNeed:
        """Memory with weights of one type, for a batch of such prompts."""
        return MemoryNeed(
            weights=self.weight_bytes(dtype, quantization),
            cache_per_token=self.cache_bytes(1, 1, dtype),
            cache=self.cache_bytes(prompt.batch_size, prompt.tokens, dtype)
            + self.cache_bytes(defaults.PREFIX_CACHE, prompt.prompt_tokens, dtype),
            working=self.working_bytes(prompt, dtype),
        )

    def weight_bytes(self, dtype: torch.dtype, quantization: str | None = None) -> int:
        """Bytes of parameters and buffers."""
        whole = self.floating * dtype.itemsize + self.fixed
        if quantization is None:
            return whole
        return whole + sum(
            quantized_bytes(quantization, rows, columns) - rows * columns * dtype.itemsize
            for rows, columns in self.matrices
        )

    def cache_bytes(self, rows: int, tokens: int, dtype: torch.dtype) -> int:
        """Bytes of keys and values: of transformers' own cache, filled without memory."""
        from transformers import DynamicCache

        text = self.text_config
        heads = text.num_key_value_heads
        states = torch.empty(rows, heads, tokens, head_dim(text), dtype=dtype, device="meta")
        cache = DynamicCache(config=self.config)
        for layer in range(text.num_hidden_layers):
            cache.update(states, states, layer)
        kept: list[Any] = cache.layers
        # A sliding layer keeps a view of its window, and with it the storage of the whole prompt.
        tensors = (tensor for layer in kept for tensor in (layer.keys, layer.values))
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def working_bytes(self, prompt: PromptShape, dtype: torch.dtype) -> int:
        """Estimate what the prefill of a batch takes beside weights and cache.

        The larger of two stages, times `ALLOCATOR`. Vision: the hidden states that are kept (of
        all layers for LLaVA, which takes one of them) and two of an MLP. Text: six hidden states
        and three of an MLP for every token, the causal mask, the attention logits of the steered
        rows, and the logits of one token per prompt.
        """
        text, rows, tokens = self.text_config, prompt.batch_size, prompt.prompt_tokens
        states = 6 * text.hidden_size + 3 * (getattr(text, "intermediate_size", 0) or 0)
        steered = 3 * 4 * text.num_attention_heads * QUESTION_ROWS * tokens
        logits = 2 * 4 * text.vocab_size
        read = rows * (tokens * states * dtype.itemsize + tokens**2 + steered + logits)
        return int(ALLOCATOR * max(read, self._vision_bytes(prompt, dtype)))

    def _vision_bytes(self, prompt: PromptShape, dtype: torch.dtype) -> int:
        vision = getattr(self.config, "vision_config", None)
        if vision is None:
            return 0
        layers = getattr(vision, "num_hidden_layers", None) or vision.depth
        kept = layers + 1 if hasattr(self.config, "vision_feature_layer") else 3
        width = kept * vision.hidden_size + 2 * vision.intermediate_size
        return int(prompt.batch_size * prompt.patches * width * dtype.itemsize)


def head_dim(text: Any) -> int:
    """Channels of one attention head."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _part(name: str) -> str:
    # ``merger`` is Qwen's projector, ``connector`` that of Idefics3; ``image_newline`` is learnt
    # with that of LLaVA-NeXT.
    if any(part in name for part in ("projector", "merger", ".connector.", "image_newline")):
        return _PROJECTOR
    towers = ("model.vision_tower.", "model.visual.", "model.vision_model.")
    return _VISION if name.startswith(towers) else _TEXT
