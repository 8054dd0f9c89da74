"""How many workers a cluster holds, and what each of them gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mrrag_llamaindex.errors import ClusterError


@dataclass(frozen=True)
class Share:
    """Number of workers, and the processors of each."""

    workers: int
    cpus: float
    gpus: float


def share_of(
    resources: Mapping[str, float], workers: int | None, gpus: float | None, device: str
) -> Share:
    """Divide a cluster.

    Parameters
    ----------
    resources : mapping
        As ``ray.cluster_resources()`` returns them.
    workers : int or None
        None: as many as there are GPUs for, or without GPUs as there are cores.
    gpus : float or None
        Of each worker, below 1 to share one. None: 1 where there are any and the device may be one.
    device : str
        That the work asks for: "auto", "cpu", "cuda", ...

    Raises
    ------
    ClusterError
        If there are fewer processors than asked for.

    Examples
    --------
    >>> share_of({"CPU": 64.0, "GPU": 4.0}, None, None, "auto")
    Share(workers=4, cpus=1, gpus=1)
    >>> share_of({"CPU": 2.0}, 4, None, "auto")
    Share(workers=4, cpus=0.5, gpus=0)
    """
    cores, cards = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if gpus is None:
        gpus = 1 if cards >= 1 and (device == "auto" or device.startswith("cuda")) else 0
    count = workers or int(cards / gpus if gpus else cores)
    if gpus * (count or 1) > cards:
        raise ClusterError(
            f"the cluster has {cards:g} GPUs, and {count or 1} workers with {gpus:g} each were "
            "asked for: ask for fewer --workers, or less --gpus-per-worker"
        )
    if not count or not cores:
        raise ClusterError("the cluster has no processor for a worker")
    # A hundredth is as fine as needed; rounded up, the last worker would never start.
    return Share(count, 1 if cores >= count else math.floor(100 * cores / count) / 100, gpus)
