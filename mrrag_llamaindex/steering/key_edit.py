"""Edit keys before they are rotated and cached: for policies that act in the space of keys.

The hook is on ``k_norm`` where a layer has one, else on ``k_proj``, and lives as long as the call.
It acts in its own call only, so that calls with other plans may run on the same model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Literal

import torch

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.edit import Edit
from mrrag_llamaindex.steering.window import RowWindow

Maps = Mapping[int, torch.Tensor]
"""By layer, float32 (1 or batch, key heads, dim, dim): ``k @ map`` is added to a key ``k``."""

_IN_CALL: ContextVar[object] = ContextVar("mrrag_in_call", default=None)


class KeyEdit(Edit):
    """Add ``k @ map`` to the keys of the columns that a plan weights, in every head.

    Parameters
    ----------
    maps : callable
        Returns the `Maps` of a call, from model, layers, and a function that runs it plainly.
    """

    def __init__(self, maps: Callable[[Any, Collection[int], Callable[[], object]], Maps]) -> None:
        self._maps = maps
        self._done: set[int] = set()

    @contextlib.contextmanager
    def around(
        self,
        model: Any,
        layers: Collection[int],
        weights: torch.Tensor,
        past: int,
        look: Callable[[], object],
    ) -> Iterator[None]:
        """Edit keys while the call runs, see `Edit.around`.

        Raises
        ------
        SteeringError
            If a layer has no projection of its own for keys, or it does not fit the maps.
        """
        maps = self._maps(model, layers, look)

        def edit(layer: int, keys: torch.Tensor) -> torch.Tensor:
            heads, dim = keys.shape[2:]
            if maps[layer].shape[1:] != (heads, dim, dim):
                raise SteeringError(
                    f"layer {layer} has {heads} key heads of {dim} numbers, and the policy learned "
                    f"maps of shape {tuple(maps[layer].shape[1:])}: it is of another model"
                )
            chosen = weights[:, past : past + keys.shape[1]].to(keys.device) != 0
            change = torch.einsum("bthd,bhde->bthe", keys.float(), maps[layer].to(keys.device))
            self._done.add(layer)
            return torch.where(chosen[:, :, None, None], keys + change.to(keys.dtype), keys)

        with _hooked(model, layers, "key", edit):
            yield

    def apply(self, output: torch.Tensor, window: RowWindow, layer: int) -> None:
        """Leave the output: it is that of the edited keys.

        Raises
        ------
        SteeringError
            If the keys of the layer were not edited.
        """
        if layer not in self._done:
            raise SteeringError(
                f"the keys of layer {layer} were not edited: the model keeps them elsewhere, or "
                "the call did not come through the steerable class"
            )


@contextlib.contextmanager
def projected(
    model: Any, layers: Collection[int], what: Literal["key", "query"]
) -> Iterator[dict[int, torch.Tensor]]:
    """See the keys or queries of this thread's calls, before rotation.

    Yields
    ------
    dict of int to torch.Tensor
        By layer, (batch, rows, heads, dim) of the last call.

    Raises
    ------
    SteeringError
        If a layer has no projection of its own for them.
    """
    seen: dict[int, torch.Tensor] = {}
    with _hooked(model, layers, what, lambda layer, found: seen.__setitem__(layer, found)):
        yield seen


@contextlib.contextmanager
def _hooked(
    model: Any,
    layers: Collection[int],
    what: Literal["key", "query"],
    act: Callable[[int, torch.Tensor], torch.Tensor | None],
) -> Iterator[None]:
    text = model.config.get_text_config(decoder=True)
    heads = text.num_key_value_heads if what == "key" else text.num_attention_heads
    with _own_call() as (hooks, is_own):
        for layer, module in _attention(model, layers).items():
            letter = what[0]
            place = getattr(module, f"{letter}_norm", None) or getattr(
                module, f"{letter}_proj", None
            )
            if place is None:
                raise SteeringError(
                    f"layer {layer} of {type(model).__name__} has no projection of its own for "
                    f"{what}s, so they cannot be reached before they are rotated; use another "
                    "policy, or a model with separate projections"
                )

            def hook(_: Any, inputs: Any, found: torch.Tensor, layer: int = layer) -> Any:
                if not is_own():
                    return None
                apart, crossed = _apart(found, heads)
                changed = act(layer, apart)
                if changed is None:
                    return None
                return (changed.transpose(1, 2) if crossed else changed).reshape(found.shape)

            hooks.enter_context(place.register_forward_hook(hook))
        yield


@contextlib.contextmanager
def _own_call() -> Iterator[tuple[contextlib.ExitStack, Callable[[], bool]]]:
    """Yield what removes the hooks at the end, and what tells a hook whether the call is ours."""
    mine = object()
    with contextlib.ExitStack() as hooks:
        hooks.callback(_IN_CALL.reset, _IN_CALL.set(mine))
        yield hooks, lambda: _IN_CALL.get() is mine


def _attention(model: Any, layers: Collection[int]) -> dict[int, torch.nn.Module]:
    """Find the attention modules of the text layers."""
    numbered = {
        module.layer_idx: module
        for module in model.modules()
        if isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "is_causal")
    }
    return {layer: numbered[layer] for layer in layers}


def _apart(found: torch.Tensor, heads: int) -> tuple[torch.Tensor, bool]:
    """Return (batch, rows, heads, dim), and whether heads and rows had been exchanged."""
    if found.ndim == 3:
        return found.view(*found.shape[:-1], heads, -1), False
    if found.shape[1] == found.shape[2] and found.shape[1] == heads:
        raise SteeringError(
            f"{heads} rows and as many heads: which is which cannot be told; ask with a longer "
            "prompt, or use another policy"
        )
    crossed = found.shape[1] == heads
    return (found.transpose(1, 2) if crossed else found), crossed


@contextlib.contextmanager
def head_outputs(model: Any) -> Iterator[dict[int, torch.Tensor]]:
    """See the outputs of all heads in this thread's calls, before they are projected.

    Yields
    ------
    dict of int to torch.Tensor
        By layer, (batch, rows, heads, dim) of the last call.

    Raises
    ------
    SteeringError
        If a layer has no projection of its own for them.
    """
    text = model.config.get_text_config(decoder=True)
    seen: dict[int, torch.Tensor] = {}
    with _own_call() as (hooks, is_own):
        for layer, module in _attention(model, range(text.num_hidden_layers)).items():
            projection: Any = getattr(module, "o_proj", None)
            if projection is None:
                raise SteeringError(
                    f"layer {layer} of {type(model).__name__} has no projection of head outputs "
                    "by the name o_proj, so they cannot be seen; use another policy"
                )

            def hook(_: Any, inputs: Any, layer: int = layer) -> None:
                if is_own():
                    output = inputs[0]
                    seen[layer] = output.view(*output.shape[:-1], text.num_attention_heads, -1)

            hooks.enter_context(projection.register_forward_pre_hook(hook))
        yield seen
