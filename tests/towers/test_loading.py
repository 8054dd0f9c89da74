"""`load_towers`: every name leads somewhere or to one clear line, within seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower
from mrrag_llamaindex.towers.loading import load_towers

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import huggingface_hub.constants as constants
before = {name: getattr(constants, name) for name in dir(constants) if name.isupper()}
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.loading import load_towers
try:
    load_towers("nobody/no-such-towers")
except TowerError as error:
    print(error)
after = {name: getattr(constants, name) for name in dir(constants) if name.isupper()}
assert before == after
"""


def test_a_saved_tower_is_found_by_a_relative_path_and_remembers_an_absolute_one(
    resnet_bert: Callable[..., ResNetBertTower], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = resnet_bert()
    tower.save(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    found = load_towers("mine")
    assert found.source == str((tmp_path / "mine").resolve())
    assert found.identity == load_towers(found.source).identity == tower.identity


def test_the_device_is_passed_on(
    resnet_bert: Callable[..., ResNetBertTower], tmp_path: Path
) -> None:
    resnet_bert().save(tmp_path)
    with pytest.raises(TowerError, match="device 'warp:3'"):
        load_towers(str(tmp_path), device="warp:3")


@pytest.mark.parametrize("name", ["no-such-folder", "/no/such/folder", "./mine", "a/b/c", ""])
def test_a_name_that_can_only_be_a_folder_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TowerError, match=r"no such folder|neither tower.json") as caught:
        load_towers(name)
    assert 'towers="phantom"' in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither tower.json nor config.json"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"kind": "magic"}', "kind 'magic'"),
    ],
)
def test_a_folder_that_is_no_tower_is_refused(
    content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "tower.json").write_text(content)
    with pytest.raises(TowerError, match=message):
        load_towers(str(tmp_path))


def test_a_missing_phantom_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(defaults, "PHANTOM_FOLDER", tmp_path)
    with pytest.raises(TowerError, match="phantom's towers are missing"):
        load_towers("phantom")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["refused", "silent"])
def test_without_a_network_the_answer_comes_within_seconds(network: str, tmp_path: Path) -> None:
    # A port where nobody listens, and one where somebody does but never answers.
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if network == "silent":
            server.listen()
        environment: dict[str, Any] = {
            **os.environ,
            "HF_HOME": str(tmp_path),
            "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
            "PYTHONPATH": str(ROOT),
        }
        environment.pop("HF_HUB_OFFLINE", None)
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "'nobody/no-such-towers'" in line
    assert "not a local folder, not in the local cache" in line
    assert 'towers="phantom"' in line
    assert time.monotonic() - start < 60  # 5 s of waiting, and the imports on a busy machine
