"""Features of frozen encoders on disk, so that an interrupted extraction goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.digests import json_digest, text_digest
from mrrag_llamaindex.files.writing import system_errors

FEATURES_FOLDER: Final = Path("training", "features")
"""Of all caches, in the folder of the towers that are trained."""


class FeatureCache:
    """Features of one encoder, by the digest of the input.

    One safetensors file for each batch, written whole or not at all. The folder's name comes from
    everything in the encoder's reference but its place, so that another encoder, other weights or
    another image size never meet these features. Neither reports nor paths are stored, only
    digests; features are derived from patient data all the same.

    Parameters
    ----------
    folder : Path
        Of all caches; made if absent.
    kind : str
        ``"image"`` or ``"text"``.
    reference : dict
        See `mrrag_llamaindex.towers.backbones.protocol.Backbone.reference`.

    Raises
    ------
    TowerError
        If a file in it cannot be read.
    """

    def __init__(self, folder: Path, kind: str, reference: dict[str, Any]) -> None:
        self.folder = _folder(folder, kind, reference)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._known.update(_read(path))

    def __len__(self) -> int:
        """Count the inputs whose features are known."""
        return len(self._known)

    def features(
        self,
        keys: Sequence[str],
        compute: Callable[[list[int]], Tensor],
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Features in the order of ``keys``; those not known are computed and kept.

        Parameters
        ----------
        keys : sequence of str
            Digest of each input; equal ones are computed once.
        compute : callable
            From positions in ``keys``, at most ``batch_size``, to features of shape (., d).
        batch_size : int
            What a kill can cost.
        progress : callable, optional
            Takes the number of inputs whose features are ready.

        Returns
        -------
        Tensor, shape (len(keys), d), float32
        """
        first: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key not in self._known:
                first.setdefault(key, position)
        todo = list(first.items())
        for start in range(0, len(todo), batch_size):
            part = todo[start : start + batch_size]
            if progress:
                progress(len(keys) - len(todo) + start)
            rows = compute([position for _, position in part]).float().cpu().contiguous()
            names = [key for key, _ in part]
            digest = text_digest("\n".join(names), 24)
            _write(self.folder / f"{digest}.safetensors", names, rows)
            self._known.update(zip(names, rows, strict=True))
        if progress:
            progress(len(keys))
        return torch.stack([self._known[key] for key in keys])


class KnownFeatures:
    """What a `FeatureCache` has kept, looked up without reading all of it.

    Parameters
    ----------
    folder, kind, reference
        As for `FeatureCache`; nothing is made.

    Raises
    ------
    TowerError
        If a file in it cannot be read.
    """

    def __init__(self, folder: Path, kind: str, reference: dict[str, Any]) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(_folder(folder, kind, reference).glob("*.safetensors")):
            self._places.update({key: (path, row) for row, key in enumerate(_keys(path))})
        self._open: tuple[Path, dict[str, Tensor]] | None = None

    def __contains__(self, key: object) -> bool:
        """Tell whether the features of an input are known."""
        return key in self._places

    def __getitem__(self, key: str) -> Tensor:
        """Return the features of an input, shape (d,), float32."""
        path, _ = self._places[key]
        # Inputs come in much the same order again, so that the next one is in this file, too.
        if self._open is None or self._open[0] != path:
            self._open = path, _read(path)
        return self._open[1][key]


def _folder(folder: Path, kind: str, reference: dict[str, Any]) -> Path:
    return folder / f"{kind}-{json_digest({**reference, 'source': ''}, 16)}"


def _write(path: Path, keys: list[str], features: Tensor) -> None:
    from safetensors.torch import save_file

    metadata = {"keys": json.dumps(keys)}
    with system_errors():
        write_atomically(
            path, lambda part: save_file({"features": features}, part, metadata), private=True
        )


def _read(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        keys = json.loads(file.metadata()["keys"])
        return dict(zip(keys, file.get_tensor("features"), strict=True))


def _keys(path: Path) -> list[str]:
    with _opened(path) as file:
        keys: list[str] = json.loads(file.metadata()["keys"])
        if len(keys) != file.get_slice("features").get_shape()[0]:
            raise ValueError
        return keys


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    # Damaged files raise errors of json, safetensors and the system alike.
    except Exception as error:
        raise TowerError(
            f"the cached features in {str(path)!r} cannot be read ({type(error).__name__}); "
            "remove the file, they are computed again"
        ) from None
