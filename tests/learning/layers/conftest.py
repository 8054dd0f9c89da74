"""The tiny LLaVA of the steering tests: blocking is compared with cutting its mask by hand."""

from __future__ import annotations

from tests.steering.conftest import load, model_folder, prompts, rows_model, toy

__all__ = ["load", "model_folder", "prompts", "rows_model", "toy"]
