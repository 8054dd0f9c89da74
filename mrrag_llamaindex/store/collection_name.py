"""Names of collections, the same in every place."""

from __future__ import annotations

import re

from mrrag_llamaindex.errors import StoreError

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


def check_collection_name(name: str) -> None:
    """Raise `StoreError` unless `name` follows the rule of every back end, which is Chroma's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StoreError(
            f"collection name {name!r} is not usable: 3 to 512 characters out of letters, digits, "
            "'.', '_' and '-', beginning and ending with a letter or digit"
        )
