"""The phantom's word-level tokenizer: a closed vocabulary, exact character offsets.

Words are lower-cased; punctuation, the phrase "is there" and the words of
`wording.FILLER_WORDS` are dropped by the pre-tokenizer, so "Is there a pleural effusion?"
is the single token "effusion". Nothing is rewritten: a token's offsets always point at the
characters it came from, which is what document and question spans are computed from.
Any other word becomes `<unk>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrrag_llamaindex.phantom.findings import FINDINGS
from mrrag_llamaindex.phantom.wording import ABSENT_WORDS, FILLER_WORDS, PRESENT_WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<unk>", "<image>", "[INST]", "[/INST]")
"""Special tokens; their order gives ids 0 to 6."""

MAX_LENGTH = 2048
"""Positions of the phantom's text model."""


def vocabulary() -> list[str]:
    """Return all tokens in the order of their ids: special, answers, polarity, findings."""
    words = ["yes", *ABSENT_WORDS, *PRESENT_WORDS, *(f.token for f in FINDINGS)]
    return [*SPECIAL_TOKENS, *dict.fromkeys(words)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer from the vocabulary; it adds `<s>` by itself.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Left-padding, fast back end (offsets available).
    """
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(vocabulary())}
    core = Tokenizer(WordLevel(vocab=ids, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    fillers = "|".join(sorted(FILLER_WORDS))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # "is" says "present" in a report; in "is there" it only asks.
            pre_tokenizers.Split(Regex(r"\bis\s+there\b"), behavior="removed"),
            pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}]+"), behavior="removed"),
            pre_tokenizers.Split(Regex(rf"^(?:{fillers})$"), behavior="removed"),
        ]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>", "[INST]", "[/INST]"],
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )
