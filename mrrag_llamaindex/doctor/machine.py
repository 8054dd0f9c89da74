"""What this machine has: memory of its devices, free disk, installed packages."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mrrag_llamaindex.errors import MRRAGError

REQUIRED: Final = ("torch", "transformers", "llama-index-core", "chromadb", "accelerate")
OPTIONAL: Final = ("bitsandbytes", "pydicom")  # for weights in 8 or 4 bits, and DICOM images

_CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of one device.

    Attributes
    ----------
    device : str
        As torch names it.
    name : str
        For a person.
    total, free : int
        Bytes; of a CPU, what can be had without swapping.
    """

    device: str
    name: str
    total: int
    free: int


def devices() -> tuple[DeviceMemory, ...]:
    """List the devices that torch can use here, the CPU last.

    Raises
    ------
    MRRAGError
        If psutil (extra ``cli``) is not installed.
    """
    import torch

    memories = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        memories.append(DeviceMemory(f"cuda:{index}", name, total, free))
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        memories.append(DeviceMemory("mps", "Apple GPU", total, free))
    return (*memories, _cpu())


def _cpu() -> DeviceMemory:
    try:
        import psutil
    except ModuleNotFoundError:
        raise MRRAGError(
            "how much memory this machine has is read with psutil: "
            'pip install "mrrag-llamaindex[cli]"'
        ) from None
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    limited = container_memory(_CGROUP)
    if limited is not None and limited[0] < total:
        return DeviceMemory("cpu", "CPU (container)", limited[0], min(free, limited[1]))
    return DeviceMemory("cpu", "CPU", total, free)


def container_memory(folder: Path) -> tuple[int, int] | None:
    """(limit, free) bytes that a container sets; None without a limit.

    The kernel ends a process that passes the limit, however much the machine has left.

    Parameters
    ----------
    folder : Path
        Where the control group of the container is mounted (version 2).
    """
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such limit: "max", or another version of the interface
        return None
    # Pages of files that are not in use are given back before anything fails.
    return limit, max(0, limit - used + int(stat.get("inactive_file", 0)))


def free_disk(folder: Path) -> int:
    """Bytes that can be written beside a folder, which need not exist."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def packages() -> dict[str, str | None]:
    """Version of every package that matters here; None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in (*REQUIRED, *OPTIONAL):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
