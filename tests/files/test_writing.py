"""A full disk is an error of the system, whoever writes."""

from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from mrrag_llamaindex.files.writing import system_errors


def test_an_error_of_the_system_gets_its_number_back() -> None:
    with pytest.raises(OSError, match="No space left") as caught, system_errors():
        raise RuntimeError("Error while serializing: I/O error: (os error 28)")
    assert caught.value.errno == errno.ENOSPC


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(KeyError), system_errors():
        raise KeyError("28")
    with pytest.raises(FileNotFoundError) as caught, system_errors():
        raise FileNotFoundError(2, "x (os error 28)")
    assert caught.value.errno == errno.ENOENT


def _fill(folder: str, kind: str, pipe: Any) -> None:
    import torch

    from mrrag_llamaindex.learning.towers.state import TrainingState
    from tests.campaign import disk_full

    disk = Path(folder)
    try:
        disk_full.mount(disk)
    except (OSError, AttributeError):
        pipe.send("skip")
        return
    large = torch.zeros(disk_full._SIZE)
    try:
        if kind == "state":
            TrainingState(disk / "seed-0.pt", "x").write({"weights": large})
        else:
            from safetensors.torch import save_file

            with system_errors():
                save_file({"weights": large}, disk / "w.safetensors")
        pipe.send("written")
    except Exception as error:
        pipe.send((type(error).__name__, getattr(error, "errno", None), [*disk.iterdir()]))


@pytest.mark.parametrize("kind", ["state", "tensors"])
def test_weights_on_a_full_disk(tmp_path, kind) -> None:
    # Only a fork has no threads, which a mount of one's own asks for.
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=_fill, args=(str(tmp_path), kind, theirs))
    process.start()
    said = ours.recv()
    process.join(30)
    if said == "skip":
        pytest.skip("no tmpfs may be mounted here")
    name, number, left = said
    assert (name, number) == ("OSError", errno.ENOSPC)
    assert kind == "tensors" or not left  # nothing half written stays
