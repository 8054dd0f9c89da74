"""Tokenizers made on the spot: byte pairs for generators, whole words for towers."""

from __future__ import annotations

from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "No pleural effusion. The heart is of normal size. Is there a nodule? Report 1: yes No Yes No",
    "Below are reference reports of other patients with similar images. Question: Answer:",
]
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    *("no", "shows", "pleural", "effusion", "heart", "size", "is", "normal", "left", "right", "."),
]


def byte_pairs(special: list[str], *, bos: bool = True, **options: Any) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer of LLaVA-Med's kind; `special` are marks added to its end."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    first = ["<unk>", "<s>", "</s>", "<pad>"]
    bytes_ = [f"<0x{value:02X}>" for value in (10, 124)]  # line feed and bar
    trainer = BpeTrainer(vocab_size=200, special_tokens=[*first, *bytes_])
    core.train_from_iterator(SENTENCES * 5, trainer)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        **options,
    )


def words(special: bool = True) -> PreTrainedTokenizerFast:
    """One token for each of `WORDS`; with `special`, in the frame that BERT expects."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    )
