"""What all rooms share: real data where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def covid_cxr() -> Path:
    """Folder of the covid-cxr images and notes; skips where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data" / "covid-cxr"
    folder = Path(os.environ.get("MRRAG_COVID_CXR", default))
    if not (folder / "metadata.csv").is_file():
        pytest.skip("the covid-cxr images are not here; set MRRAG_COVID_CXR to their folder")
    return folder
