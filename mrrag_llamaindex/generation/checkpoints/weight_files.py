"""The weight files of a model folder: what is there, what is missing, cut off or misplaced."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.json_files import read_json
from mrrag_llamaindex.files.safetensors_header import read_header
from mrrag_llamaindex.generation.checkpoints.stored_tensors import StoredTensor, unpickled

_KINDS: Final = (("model", "safetensors"), ("pytorch_model", "bin"))
_LONGEST_NAME: Final = 100
"""Characters; the longest that is published has 40."""

_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one folder, described without reading a value.

    Attributes
    ----------
    sizes : mapping of str to int
        File name to bytes, of the files that are there.
    tensors : mapping of str to StoredTensor
        From the headers; empty for pickles, whose contents are not looked at.
    index : mapping of str to str
        Tensor to file, as the folder's index says; empty without one.
    pickled : bool
        Whether the weights are pickles (``.bin``).
    absent : tuple of str
        Files that the index, or the numbering, names and that are not there.
    problems : tuple of str
        What else is wrong, a sentence each.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    index: Mapping[str, str] = field(default_factory=dict)
    pickled: bool = False
    absent: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of all files."""
        return sum(self.sizes.values())

    @property
    def keys(self) -> frozenset[str]:
        """Names of tensors, from the headers and the index."""
        return frozenset((*self.tensors, *self.index))

    @property
    def dtype(self) -> str | None:
        """The type that most of the stored bytes have; None where no header tells."""
        stored: Counter[torch.dtype] = Counter()
        for tensor in self.tensors.values():
            stored[tensor.dtype] += tensor.nbytes
        return str(stored.most_common(1)[0][0]).removeprefix("torch.") if stored else None

    @property
    def complete(self) -> bool:
        """Whether there are weights and nothing is wrong with them."""
        return bool(self.sizes) and not self.absent and not self.problems


def survey_weights(folder: Path) -> WeightFiles:
    """Look over a folder; safetensors are preferred to pickles, as when loading.

    The header of a safetensors file says where its last tensor ends, so a file that was cut off
    is found without reading it. Every fault is listed, not only the first.
    """
    for stem, suffix in _KINDS:
        files = _survey(folder, stem, suffix)
        if files.sizes or files.absent or files.problems:
            return files
    return WeightFiles()


def open_weights(
    folder: Path, *, what: str = "model", allow_pickle: bool = False, remedy: str = ""
) -> dict[str, StoredTensor]:
    """List the weights of a checkpoint folder without reading them.

    Safetensors are preferred; ``.bin`` files, which are pickles, are opened only on request and
    then with torch's restricted unpickler, which runs no code of theirs.

    Parameters
    ----------
    folder : Path
        Holds one weight file, or several and an index.
    what : str
        What the folder is, for messages.
    allow_pickle : bool
    remedy : str
        What to do about a folder of pickles, for the message.

    Raises
    ------
    ModelError
        If there are no weights, only pickles without leave, or if a shard is missing, damaged,
        or holds a name that another one holds, too.
    """
    files = survey_weights(folder)
    if files.pickled and not allow_pickle:
        raise ModelError(
            f"{what}: its weights are only there as pickles ({min(files.sizes, default='.bin')}), "
            f"which could run code when they are opened; {remedy or 'get a safetensors copy'}"
        )
    problems, tensors = list(files.problems), dict(files.tensors)
    problems += [f"{name} is not in the folder; download it" for name in files.absent]
    if not files.sizes and not problems:
        problems.append(
            "the folder holds no weights (model*.safetensors or pytorch_model*.bin); download it "
            "completely"
        )
    if files.pickled and not problems:
        tensors, problems = _gathered((folder / name for name in files.sizes), files.index)
    if problems:
        raise ModelError(f"{what}: {problems[0]}")
    return tensors


def _survey(folder: Path, stem: str, suffix: str) -> WeightFiles:
    path = folder / f"{stem}.{suffix}.index.json"
    index: dict[str, str] = {}
    names = _numbered(folder, stem, suffix)
    if path.is_file():
        try:
            index = dict(read_json(path)["weight_map"])
            if not all(isinstance(name, str) for pair in index.items() for name in pair):
                raise TypeError
        except (OSError, ValueError, KeyError, TypeError):
            return WeightFiles(problems=(f"{path.name} is not an index; download it again",))
        names = sorted(set(index.values()))
        for name in names:
            # An index is data from elsewhere: it may not lead out of its folder.
            plain = Path(name).name == name and len(name) <= _LONGEST_NAME and name.isprintable()
            if not plain or "\\" in name or not name.endswith(f".{suffix}"):
                fault = (
                    f"{path.name} names {name[:80]!r}, which is not a weight file of this folder"
                )
                return WeightFiles(problems=(fault,))
    present = [name for name in names if (folder / name).is_file()]
    pickled = suffix == "bin"
    tensors, problems = _gathered((folder / name for name in present if not pickled), index)
    return WeightFiles(
        sizes={name: (folder / name).stat().st_size for name in present},
        tensors=tensors,
        index=index,
        pickled=pickled,
        absent=tuple(name for name in names if name not in present),
        problems=tuple(problems),
    )


def _numbered(folder: Path, stem: str, suffix: str) -> list[str]:
    """Names of the weight files of a folder without an index."""
    if (folder / f"{stem}.{suffix}").is_file():
        return [f"{stem}.{suffix}"]
    parts = sorted(path.name for path in folder.glob(f"{stem}-*-of-*.{suffix}"))
    number = re.fullmatch(rf"{stem}-(\d+)-of-(\d+)\.{suffix}", parts[0]) if parts else None
    if number is None:
        return parts
    width, count = len(number[1]), int(number[2])
    return [f"{stem}-{i:0{width}}-of-{number[2]}.{suffix}" for i in range(1, count + 1)]


def _gathered(
    files: Iterable[Path], index: Mapping[str, str]
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Tensors of several files, and what is wrong with them."""
    tensors: dict[str, StoredTensor] = {}
    problems: list[str] = []
    opened = set()
    for file in files:
        try:
            stored = _tensors_of(file)
        except KeyError as error:
            problems.append(
                f"{file.name} holds numbers of type {error}, as quantised weights do; get the "
                "checkpoint in bfloat16, float16 or float32"
            )
            continue
        # Whatever the bytes of a pickle happen to mean.
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            problems.append(
                f"{file.name} is damaged, incomplete, or not a weight file ({reason}); download "
                "it again"
            )
            continue
        opened.add(file.name)
        for tensor in stored:
            if tensor.key in tensors:
                problems.append(
                    f"tensor {tensor.key!r} stands in two files, {tensors[tensor.key].path.name} "
                    f"and {file.name}; remove the file that does not belong to this checkpoint"
                )
            tensors[tensor.key] = tensor
    problems += [
        f"the index places tensor {key!r} in {name}, which does not hold it; download the folder "
        "again"
        for key, name in index.items()
        if name in opened and (key not in tensors or tensors[key].path.name != name)
    ]
    return tensors, problems


def _tensors_of(file: Path) -> list[StoredTensor]:
    if file.suffix != ".safetensors":
        values = unpickled(file)
        return [StoredTensor(file, k, tuple(v.shape), v.dtype) for k, v in values.items()]
    return [
        StoredTensor(file, entry.key, entry.shape, _DTYPES[entry.dtype])
        for entry in read_header(file)
    ]
