"""The keyword under which models take their cache.

transformers 5.24 renamed it. Until 5.40 models take the old name too, so a caller may use either; a
check that knows one of them would let the other pass unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import transformers
from packaging.version import Version

CACHE: Final = (
    "cache" if Version(transformers.__version__) >= Version("5.24.0") else "past_key_values"
)
"""What the installed transformers calls it."""

_NAMES: Final = ("cache", "past_key_values")


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among the arguments of ``forward``, None without one."""
    return next((arguments[name] for name in _NAMES if arguments.get(name) is not None), None)


def without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of ``forward`` for a call that neither reads nor fills a cache."""
    others = {name: value for name, value in arguments.items() if name not in _NAMES}
    return others | {"use_cache": False}
