"""Options by keyword: each goes to the one that takes it, and what nobody takes is refused."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mrrag_llamaindex.errors import InputError, ModelError

_NOT_TAKEN: dict[str, tuple[tuple[Any, ...], str]] = {
    "vector_store_query_mode": (
        (None, "default"),
        "pairs are ranked by the fused score; there is no sparse, hybrid or MMR search",
    ),
    "alpha": ((None,), "weights between image and text are FusionWeights: give weights="),
    "sparse_top_k": ((None,), "there is no sparse search"),
    "hybrid_top_k": ((None,), "there is no hybrid search"),
    "mmr_threshold": ((None,), "there is no MMR search"),
    "vector_store_kwargs": ((None, {}), "a store takes no options per query"),
    "embed_model": ((None,), "vectors come from the index's towers"),
    "object_map": ((None, {}), "pairs hold no objects to retrieve from"),
    "embedding": ((None,), "vectors come from the index's towers"),
    "storage_context": ((None,), "pairs live in a store of their own: give persist_dir="),
    "transformations": ((None, []), "a report is embedded whole, with its image"),
    "use_async": ((None, False), "pairs are embedded in batches, one after another"),
    "insert_batch_size": ((None,), "the number embedded at once is batch_size="),
}
"""What a stock index takes: the values that say nothing, and why others are refused."""


def parameters(function: Callable[..., Any], *without: str) -> frozenset[str]:
    """Return the names that may be given to a function by keyword."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = inspect.signature(function).parameters.values()
    return frozenset(item.name for item in named if item.kind in kinds) - {"self", "cls", *without}


def shared_out(
    options: Mapping[str, Any], caller: str, *takers: Iterable[str]
) -> list[dict[str, Any]]:
    """Give each taker the options that it takes; several may take one.

    Parameters
    ----------
    options : mapping
        Given by keyword.
    caller : str
        For the message.
    *takers : iterable of str
        The names that each of them takes.

    Raises
    ------
    InputError
        If nobody takes an option, or it is one of a stock index that pairs have no use for.
    """
    known = sorted({name for names in takers for name in names})
    for name, value in options.items():
        if name in known:
            continue
        silent, reason = _NOT_TAKEN.get(name, ((), ""))
        if not reason:
            raise unknown_option(name, caller, known)
        if value not in silent:
            raise InputError(f"{caller} cannot honour {name}={value!r}: {reason}")
    return [{name: options[name] for name in names if name in options} for names in takers]


def require_one_of(name: str, value: Any, values: tuple[Any, ...]) -> None:
    """Raise `InputError` unless the value of an option is one of ``values``."""
    if not any(value is one or (isinstance(value, str) and value == one) for one in values):
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, values))}")


def require_count(name: str, value: Any) -> int:
    """Return the value of an option that counts something; `InputError` unless it is 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a number of at least 1, not {value!r}")
    return value


def unknown_option(name: str, caller: str, known: Iterable[str]) -> InputError:
    """Return the error for an option that nobody takes, with the likeliest name for it."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    advice = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(names)}"
    return InputError(f"{caller} takes no option {name!r}; {advice}")


def token_limit(kwargs: Mapping[str, Any]) -> int | None:
    """Return ``max_new_tokens``; other generation settings are refused rather than ignored."""
    unknown = sorted(set(kwargs) - {"max_new_tokens"})
    if unknown:
        raise ModelError(
            f"MRRAGLLaVA does not take {unknown[0]!r}: it decodes greedily, so that an answer can "
            "be reproduced; the one setting per call is max_new_tokens"
        )
    return kwargs.get("max_new_tokens")
