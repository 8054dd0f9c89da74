"""A folder of model files for a name, with an answer within seconds when there is no network."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from mrrag_llamaindex.errors import MRRAGError

SECONDS = 5.0
"""Wait for the hub's first answer."""

_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


def find_folder(
    source: str, *, what: str, ways_on: str, error: type[MRRAGError], weights: bool = True
) -> Path:
    """Local folder of ``source``, which is a folder or a hub id.

    A hub id is looked for in the local cache first; only if it is not there is the hub asked.

    Parameters
    ----------
    source : str
        A folder (``~`` is the home folder), or a hub id ``owner/name``.
    what : str
        What is looked for, for the message: "model" or "towers".
    ways_on : str
        What else can be done, for the message.
    error : type
        Class of the error raised.
    weights : bool
        False: only the small files are fetched (configuration, tokenizer, list of tensors).

    Raises
    ------
    MRRAGError
        Of class ``error``, if there is no such folder and the hub does not provide it. Without
        a network this takes seconds: one short question comes before the download, which would
        retry for minutes.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    looks_local = folder.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1
    if looks_local or "\\" in source:
        raise error(f"{what} {source!r}: there is no such folder; {ways_on}")
    from huggingface_hub.errors import HFValidationError

    try:
        return cached_folder(source) or _downloaded(source, weights)
    except HFValidationError as cause:
        raise error(f"{what} {source!r}: neither a folder nor a valid hub id; {ways_on}") from cause
    # The hub's client raises errors of whichever HTTP library its version uses.
    except Exception as cause:
        raise _not_provided(source, what, ways_on, error, cause) from cause


def weight_sizes(
    hub_id: str, *, what: str, ways_on: str, error: type[MRRAGError]
) -> dict[str, int]:
    """Ask the hub for the bytes of the weight files that `find_folder` would download.

    Raises
    ------
    MRRAGError
        Of class ``error``, if the hub does not tell.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(hub_id, timeout=SECONDS, files_metadata=True)
    except Exception as cause:  # as in `find_folder`
        raise _not_provided(hub_id, what, ways_on, error, cause) from cause
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or []}
    pattern = _weight_pattern(list(sizes))
    return {name: size for name, size in sizes.items() if fnmatch(name, pattern)}


def cached_folder(hub_id: str) -> Path | None:
    """Return the folder of a hub id in the local cache, None if its weights are not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    # An interrupted download leaves a folder without them; the hub is then asked again.
    names = ("config.json", "tower.json", "open_clip_config.json", "adapter_config.json")
    known = any((folder / name).exists() for name in names)
    return folder if weights and known else None


def _downloaded(hub_id: str, weights: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(hub_id, timeout=SECONDS)
    names = [file.rfilename for file in info.siblings or []]
    patterns = [*_FILES, _weight_pattern(names)] if weights else _FILES
    return Path(snapshot_download(hub_id, allow_patterns=patterns))


def _weight_pattern(names: Sequence[str]) -> str:
    safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
    return "*.safetensors" if safe else "*.bin"


def _not_provided(
    hub_id: str, what: str, ways_on: str, error: type[MRRAGError], cause: Exception
) -> MRRAGError:
    return error(
        f"{what} {hub_id!r}: not a local folder, not in the local cache, and the hub did not "
        f"provide it ({type(cause).__name__}); {ways_on}"
    )
