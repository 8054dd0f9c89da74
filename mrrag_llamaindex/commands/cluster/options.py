"""Options of the commands whose work Ray may spread: on which cluster, and over what."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from mrrag_llamaindex.commands.console import count, say, say_progress
from mrrag_llamaindex.errors import InputError

if TYPE_CHECKING:
    from mrrag_llamaindex.cluster.pool import Pool

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Spread the work by Ray: over processes of this machine, or with host:port over the "
        'cluster there ("auto": the one that runs here).',
        rich_help_panel="Ray",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="--ray: how many, each with a model of its own. Default: one for each GPU, without "
        "GPUs for each core.",
        rich_help_panel="Ray",
    ),
]
GPUsPerWorker = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="--ray: GPUs of each; .5 shares one. Default: 1 where there are any.",
        rich_help_panel="Ray",
    ),
]

_ADDRESS = re.compile(r"local|auto|.*:\d+|.*://.*")


class WithAddress(TyperCommand):
    """A command whose ``--ray`` need not be followed by an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Put ``local`` behind a bare ``--ray``."""
        given = list(args)
        for place in reversed([n for n, word in enumerate(args) if word == "--ray"]):
            if not _ADDRESS.fullmatch("".join(args[place + 1 : place + 2])):
                given.insert(place + 1, "local")
        return super().parse_args(ctx, given)


@dataclass(frozen=True)
class RayOptions:
    """The options of these names; without an address everything is done in this process."""

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "gpus"):
            if getattr(self, name) is not None and self.address is None:
                option = "--gpus-per-worker" if name == "gpus" else f"--{name}"
                raise InputError(f"{option} goes with --ray")

    def __bool__(self) -> bool:
        """Whether workers are asked for."""
        return self.address is not None

    @contextmanager
    def pool(
        self, make: Callable[[], Any], device: str, folders: Iterable[Path | None] = ()
    ) -> Iterator[Pool]:
        """Start workers; see `Pool`."""
        from mrrag_llamaindex.cluster.connection import connected
        from mrrag_llamaindex.cluster.pool import Pool
        from mrrag_llamaindex.cluster.resources import share_of

        assert self.address is not None
        with connected(self.address) as ray:
            share = share_of(ray.cluster_resources(), self.workers, self.gpus, device)
            machines = sum(node["Alive"] for node in ray.nodes())
            with_gpus = f", {share.gpus:g} GPU each" if share.gpus else ""
            say_progress(
                f"{count(share.workers, 'worker')} on {count(machines, 'machine')}{with_gpus}"
            )
            with Pool(
                ray,
                make,
                share.workers,
                cpus=share.cpus,
                gpus=share.gpus,
                folders=[folder for folder in folders if folder is not None],
                note=lambda line: say("note", line),
            ) as pool:
                yield pool
