"""A byte-pair tokenizer of LLaVA-Med's kind, trained on the spot, and the shipped phantom model."""

from __future__ import annotations

import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine


@pytest.fixture(scope="session")
def bpe():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    text = ["No pleural effusion. The heart is of normal size. Is there a nodule? Report 1: yes"]
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    core.train_from_iterator(text * 5, BpeTrainer(vocab_size=200, special_tokens=special))
    core.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


@pytest.fixture(scope="session")
def engine() -> LlavaEngine:
    return LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=4)
