"""Texts longer than an encoder reads at once, without silence about the rest."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrrag_llamaindex.errors import InputError, TowerError
from mrrag_llamaindex.files.digests import json_digest
from mrrag_llamaindex.files.rows import is_unicode

LONG_TEXT = ("mean", "truncate")
_PROBE = "Résumé: NO pleural effusion (2.5 cm), left-sided; T1/T2 [SEP] <|endoftext|>\n"


@dataclass(frozen=True)
class Window:
    """A stretch of one text that the encoder reads at once.

    Attributes
    ----------
    text : int
        Position of the text in the sequence that was split.
    input_ids : tuple of int
        Special tokens included.
    tokens : int
        Of these, the text's own.
    """

    text: int
    input_ids: tuple[int, ...]
    tokens: int


class TextWindows:
    """A tokenizer together with a stated treatment of long texts.

    With ``"mean"`` a text is cut into windows that do not overlap, each with the tokenizer's
    special tokens; `combine` averages their vectors, weighted by the tokens in each, so that a
    last window of three tokens does not count as much as a full one.

    Special tokens that stand in a text as characters, such as ``[SEP]``, are read as characters:
    a report is data.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Any transformers tokenizer with a padding token.
    limit : int
        Tokens read at once, special tokens included.
    long_text : {"mean", "truncate"}
        See above; ``"truncate"`` keeps the first window.
    padding : {"longest", "max_length"}
        ``"max_length"`` where the encoder was trained with it (SigLIP).

    Raises
    ------
    ValueError
        If a setting is not one of these, or the limit leaves nothing for text.
    TowerError
        If the tokenizer has no padding token.
    """

    def __init__(
        self, tokenizer: Any, limit: int, long_text: str = "mean", padding: str = "longest"
    ) -> None:
        if long_text not in LONG_TEXT:
            raise ValueError(f"long_text must be one of {LONG_TEXT}, not {long_text!r}")
        if padding not in ("longest", "max_length"):
            raise ValueError(f'padding must be "longest" or "max_length", not {padding!r}')
        if tokenizer.pad_token_id is None:
            raise TowerError("the tokenizer has no padding token; set tokenizer.pad_token first")
        self.tokenizer = tokenizer
        self.limit = limit
        self.long_text = long_text
        self.padding = padding
        # Tokenizers keep settings inside; two threads that change them collide in the library.
        self._lock = threading.Lock()
        self._prefix, self._suffix = self._special_tokens()
        self._capacity = limit - len(self._prefix) - len(self._suffix)
        if self._capacity < 1:
            raise ValueError(
                f"a limit of {limit} tokens leaves no room for text beside "
                f"{len(self._prefix) + len(self._suffix)} special tokens"
            )

    def split(self, texts: Sequence[str]) -> list[Window]:
        """Cut texts into windows, in order.

        Raises
        ------
        InputError
            If a text is not a string, is empty, holds lone surrogates, or has no token in the
        tokenizer's vocabulary.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"text {position + 1} of {len(texts)} is {type(text).__name__}, not a string"
                )
            if not text.strip():
                raise InputError(f"text {position + 1} of {len(texts)} is empty")
            if not is_unicode(text):
                raise InputError(
                    f"text {position + 1} of {len(texts)} holds characters that are not valid "
                    "Unicode text"
                )
        windows = []
        for position, ids in enumerate(self._encode(list(texts))):
            if not ids:
                raise InputError(
                    f"text {position + 1} of {len(texts)} holds nothing that the tokenizer knows"
                )
            end = self._capacity if self.long_text == "truncate" else len(ids)
            for start in range(0, min(end, len(ids)), self._capacity):
                part = ids[start : start + self._capacity]
                windows.append(Window(position, (*self._prefix, *part, *self._suffix), len(part)))
        return windows

    def batch(self, windows: Sequence[Window]) -> dict[str, Tensor]:
        """Pad windows on the right into tensors of shape (len(windows), T).

        Whatever side the tokenizer prescribes: encoders count positions from the left, and a
        window padded there would get another vector in every batch.

        Returns
        -------
        dict
            ``input_ids`` int64 and, where the tokenizer makes one, ``attention_mask`` int64.
        """
        rows = {"input_ids": [list(window.input_ids) for window in windows]}
        with self._lock:
            # Else the library advises to pad while tokenizing, which windows rule out.
            self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
            padded = self.tokenizer.pad(
                rows,
                padding=self.padding,
                max_length=self.limit if self.padding == "max_length" else None,
                padding_side="right",
                return_tensors="pt",
            )
        return {key: padded[key] for key in ("input_ids", "attention_mask") if key in padded}

    @staticmethod
    def combine(vectors: Tensor, windows: Sequence[Window], texts: int) -> Tensor:
        """Mean of each text's window vectors, weighted by the windows' tokens.

        Parameters
        ----------
        vectors : Tensor, shape (len(windows), n)
        windows : sequence of Window
        texts : int
            Number of texts.

        Returns
        -------
        Tensor, shape (texts, n)
            Not normalised.
        """
        owner = torch.tensor([window.text for window in windows], device=vectors.device)
        weight = vectors.new_tensor([float(window.tokens) for window in windows])
        total = vectors.new_zeros(texts)
        total.index_add_(0, owner, weight)
        sums = vectors.new_zeros(texts, vectors.shape[1])
        sums.index_add_(0, owner, vectors * weight[:, None])
        return sums / total[:, None]

    def settings(self) -> dict[str, Any]:
        """Everything here that moves vectors, for a tower's identity and for its file."""
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        digest = json_digest([vocabulary, self._encode([_PROBE])[0], self._prefix, self._suffix])
        return {
            "limit": self.limit,
            "long_text": self.long_text,
            "padding": self.padding,
            "padding_side": "right",
            "pad_token_id": self.tokenizer.pad_token_id,
            "tokenizer_sha256": digest,
        }

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into ``folder``."""
        with self._lock:
            self.tokenizer.save_pretrained(folder)

    def _encode(self, texts: list[str], special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        with self._lock:
            encoded = self.tokenizer(
                texts,
                add_special_tokens=special,
                split_special_tokens=True,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                verbose=False,
            )
        return [list(map(int, ids)) for ids in encoded["input_ids"]]

    def _special_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        # Read off an example, since fast and sentencepiece tokenizers share no method for it.
        special = set(self.tokenizer.all_special_ids)
        words = (t for t, i in self.tokenizer.get_vocab().items() if i not in special)
        for probe in ("a", _PROBE, next(words, "a")):
            bare, full = (self._encode([probe], special=flag)[0] for flag in (False, True))
            for start in range(len(full) - len(bare) + 1):
                if bare and full[start : start + len(bare)] == bare:
                    return tuple(full[:start]), tuple(full[start + len(bare) :])
        raise TowerError("the tokenizer's special tokens could not be told from its text")


def token_limit(config: Any, tokenizer: Any, wanted: int | None = None) -> int:
    """Return the tokens that an encoder is to read at once, special tokens included.

    Parameters
    ----------
    config : transformers.PretrainedConfig
        Of a text encoder, or of a dual encoder that has one.
    tokenizer : PreTrainedTokenizerBase
    wanted : int, optional
        By default as many as encoder and tokenizer read.

    Raises
    ------
    ValueError
        If that is more than they read.
    """
    text = getattr(config, "text_config", config)
    limit = int(tokenizer.model_max_length)
    if (positions := getattr(text, "max_position_embeddings", None)) is not None:
        # RoBERTa counts positions from the padding id on, and AltCLIP's text model is one.
        if "roberta" in text.model_type or text.model_type.startswith("altclip"):
            positions -= (text.pad_token_id or 0) + 1
        limit = min(limit, int(positions))
    if wanted is not None and wanted > limit:
        raise ValueError(f"text_token_limit is {wanted}, the encoder reads at most {limit} tokens")
    return limit if wanted is None else wanted
