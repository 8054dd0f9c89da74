"""A disk that fills up in the middle: a small tmpfs, where mounting one is permitted.

A command that meets a full disk ends with one line and exit code 2, what it had finished stays
there, and it ends well as soon as there is room.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.campaign.kills import Loop, command, in_child, loops, prepare
from tests.campaign.tally import Tally

_SIZE = 24 * 2**20
_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000


def run(seconds: float, seed: int) -> Tally:
    with tempfile.TemporaryDirectory() as folder:
        tally: Tally = in_child(lambda disk: _inside(disk, seconds, seed), Path(folder))
    return tally


def mount(disk: Path) -> None:
    """Mount a small disk that this process and its children see alone; it goes when they end.

    Raises
    ------
    OSError
        If that is not permitted.
    """
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if library.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no namespace of one's own")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    made = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(disk)]
    if subprocess.run(made, stderr=subprocess.DEVNULL).returncode:
        raise OSError("mount has failed")


def _inside(disk: Path, seconds: float, seed: int) -> Tally:
    """Run commands on a disk with little room, then with enough."""
    tally, chance = Tally("disk full"), random.Random(f"{seed} disk full")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        try:
            mount(disk)
        except (OSError, AttributeError) as error:
            tally.remark = f"skipped: no tmpfs can be mounted here ({error})"
            return tally
        in_child(prepare, base)
        made = loops(base)
        if command(made["ingest"], base / "store", base)[0]:
            raise RuntimeError("the store of the questions cannot be made")
        for name, loop in itertools.cycle(made.items()):
            if time.monotonic() - started > seconds:
                break
            _fill(tally, name, loop, base, disk / f"{name}-out", chance)
    tally.seconds = time.monotonic() - started
    return tally


def _fill(
    tally: Tally, name: str, loop: Loop, base: Path, out: Path, chance: random.Random
) -> None:
    tally.inputs += 1
    filler = out.parent / "filler"
    held: dict[str, object] = {}
    for room in (chance.randrange(0, 200_000), chance.randrange(0, 1_000_000)):
        with filler.open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(out.parent).free - room - 4096)))
        code, said = command(loop, out, base)
        if code not in (0, 2) or "Traceback" in said:
            tally.tracebacks += 1
            tally.note(f"{name} ends with {code}: {said[-300:]!r}", "on a full disk")
        tally.refused += code == 2
        filler.unlink()
        try:
            now = in_child(loop.rows, out)
        except RuntimeError as error:
            tally.tracebacks += 1
            tally.note(f"{name} leaves what cannot be read: {error}", "on a full disk")
            now = held
        if lost := [key for key, value in held.items() if now.get(key, now) != value]:
            tally.lost += len(lost)
            tally.note(f"{name} held {len(held)} and holds {len(now)}", "on a full disk")
        held = now
    code, said = command(loop, out, base)
    if code:
        tally.tracebacks += 1
        tally.note(f"{name} ends with {code}: {said[-300:]!r}", "with room again")
    tally.values += code == 0
    for path in out.parent.glob(f"{out.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
