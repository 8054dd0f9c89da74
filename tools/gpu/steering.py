"""What must hold of steering on a device; each check raises where it does not.

Run by ``tools/gpu_check.py``, which has no pytest, and by the tests, on a CPU and, marked ``gpu``,
on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.steering.attention.probe_calls import HeadGeometry
from mrrag_llamaindex.steering.attention.proof import require_equal
from mrrag_llamaindex.steering.attention.registry import BACKENDS
from mrrag_llamaindex.steering.ifa import IFA
from tools.gpu.model import random_llava
from tools.gpu.workload import question_about

LLAVA_MED_HEADS = HeadGeometry(32, 8, 128)
TOLERANCE = 1e-4  # of float32 logits of about 1, and of probabilities

_PATIENTS = range(5)


def _questions() -> tuple[list, list]:
    """Five questions of five lengths, with numbers of reports from two to six."""
    drawn = [
        question_about(patient, documents=2 + patient, report_tokens=10 + 3 * patient)
        for patient in _PATIENTS
    ]
    requests, images = zip(*drawn, strict=True)
    return list(requests), list(images)


def _engine(device: str) -> LlavaEngine:
    return LlavaEngine(random_llava("tiny", device, "float32"), max_new_tokens=8)


def _switch(engine: LlavaEngine, implementation: str) -> None:
    names = {"text_config": implementation, "vision_config": "sdpa"}
    engine.model.set_attn_implementation(names)


def _logits(engine: LlavaEngine, rows: Sequence[int], *, shared: int = 0, steered: bool = True):
    """Logits of the first answer token, for some of the questions in one batch."""
    requests, images = _questions()
    prepared = engine.read_images([requests[row] for row in rows], [images[row] for row in rows])
    prompts = [
        engine.prompt(requests[row], image) for row, image in zip(rows, prepared, strict=True)
    ]
    plan, _ = engine.planner.plan(prompts, IFA() if steered else None, shared)
    ids = [prompt.input_ids for prompt in prompts]
    return engine.runner.logits(ids, prepared, shared=shared, steering=plan)[:, -1].cpu()


def _require_close(one: torch.Tensor, other: torch.Tensor, what: str) -> None:
    off = float((one - other).abs().max())
    if not off <= TOLERANCE:  # NaN is not
        raise AssertionError(f"{what}: off by {off:.2g}, more than {TOLERANCE:g}")


def attention_equals_definition(device: str) -> None:
    """Try LLaVA-Med's heads: rows in two types, and on a GPU FlexAttention."""
    where = torch.device(device)
    for name in ("rows", "flex") if where.type == "cuda" else ("rows",):
        for dtype in (torch.float32, torch.bfloat16):
            require_equal(name, BACKENDS[name], LLAVA_MED_HEADS, where, dtype)


def backends_agree(device: str) -> None:
    """Compare rows with the definition on a padded batch of five plans; steering must show."""
    engine = _engine(device)
    rows = _logits(engine, _PATIENTS)
    _switch(engine, BACKENDS["eager"].registered)
    _require_close(rows, _logits(engine, _PATIENTS), "rows to eager")
    effect = (rows - _logits(engine, _PATIENTS, steered=False)).abs().amax(dim=1).min()
    if effect < 10 * TOLERANCE:
        raise AssertionError(f"steering moved a row by {effect:.2g}: no more than rounding")


def off_is_stock(device: str) -> None:
    """Compare our attention without a plan with that of transformers, bit for bit."""
    engine = _engine(device)
    ours = _logits(engine, _PATIENTS, steered=False)
    _switch(engine, "sdpa")
    if not torch.equal(ours, _logits(engine, _PATIENTS, steered=False)):
        raise AssertionError("unsteered attention differs from stock SDPA")


def company_changes_nothing(device: str) -> None:
    """Compare every row of a padded batch with the same prompt alone."""
    engine = _engine(device)
    together = _logits(engine, _PATIENTS)
    for row in _PATIENTS:
        _require_close(together[row], _logits(engine, [row])[0], f"row {row} in company to alone")


def prefix_changes_nothing(device: str) -> None:
    """Compare a prompt in two passes, image and reports first, with the same in one."""
    engine = _engine(device)
    requests, images = _questions()
    (image,) = engine.read_images(requests[:1], images[:1])
    shared = engine.prompt(requests[0], image).question_span[0]
    _require_close(_logits(engine, [0], shared=shared), _logits(engine, [0]), "two passes to one")


def callers_get_their_own(device: str) -> None:
    """Make twenty calls at once from eight threads; each is answered as it is alone."""
    engine = _engine(device)
    requests, images = _questions()

    def ask(row: int) -> Answer:
        (answer,) = engine.generate([requests[row]], [images[row]], policy=IFA())
        return answer

    alone = [ask(row) for row in _PATIENTS]
    with ThreadPoolExecutor(8) as pool:
        for row, answer in zip([*_PATIENTS] * 4, pool.map(ask, [*_PATIENTS] * 4), strict=True):
            if answer.text != alone[row].text:
                raise AssertionError(f"question {row} was answered otherwise in company")
            p_yes = torch.tensor([answer.p_yes, alone[row].p_yes])
            _require_close(p_yes[0], p_yes[1], f"p(yes) of question {row}")


CHECKS: Final[tuple[Callable[[str], None], ...]] = (
    attention_equals_definition,
    backends_agree,
    off_is_stock,
    company_changes_nothing,
    prefix_changes_nothing,
    callers_get_their_own,
)
"""Every check; each takes a torch device by name."""
