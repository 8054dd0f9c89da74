"""What all folders share: real data where it is present, and models on one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.store.postgres_server", "tests.tiny.fixtures"]

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread per worker, in the processes that a test starts, too: workers share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep files together, and all that need a cluster: one worker starts one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            cluster = "tests/cluster/"
            return cluster if nodeid.startswith(cluster) else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def no_kept_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Critical layers that a user once found and kept must not steer the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRRAG_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only wait for their threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def covid_cxr() -> Path:
    """Folder of the covid-cxr images and notes; skips where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data" / "covid-cxr"
    folder = Path(os.environ.get("MRRAG_COVID_CXR", default))
    if not (folder / "metadata.csv").is_file():
        pytest.skip("the covid-cxr images are not here; set MRRAG_COVID_CXR to their folder")
    return folder
