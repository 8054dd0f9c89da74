"""Let torchvision load beside a torch that was built for CPUs; put this folder on PYTHONPATH.

The wheels of torchvision on PyPI hold operators built against torch for CUDA, which do not load
here, and its Python part then stops at declaring what they compute for tracing. vLLM imports it in
every process, so each declares the two operators that are missing just before the first import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing; acts when torchvision is looked for."""

    library: object = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                library = torch.library.Library("torchvision", "FRAGMENT")
                for schema in _SCHEMAS:
                    library.define(schema)
                type(self).library = library  # what is declared goes with the object
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
