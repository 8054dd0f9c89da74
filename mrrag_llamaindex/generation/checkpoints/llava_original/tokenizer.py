"""The tokenizer of the original layout, fast, and with the image token that it lacks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import ModelError

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"


def load_original_tokenizer(folder: Path) -> Any:
    """Load it and add ``<image>`` and ``<pad>`` behind its vocabulary, where they are not in it.

    The original code tokenizes the text before and after the image on its own, and each piece
    begins with SentencePiece's word mark. The ``legacy`` way does the same around special tokens,
    so the ids are those of the original whatever tokenizer_config.json says.

    Parameters
    ----------
    folder : Path
        Holds ``tokenizer.model`` or ``tokenizer.json``.

    Returns
    -------
    PreTrainedTokenizerFast
        Prepends the beginning-of-sequence token once.

    Raises
    ------
    ModelError
        If there is no tokenizer, if it cannot be read, or if it does not end up so.
    """
    model, core = folder / "tokenizer.model", folder / "tokenizer.json"
    if not model.is_file() and not core.is_file():
        raise ModelError(
            "the folder holds neither tokenizer.model nor tokenizer.json; download it completely"
        )
    if not core.is_file():
        _require_sentencepiece()
    tokenizer = _load(folder, core)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer loads as {type(tokenizer).__name__}, which gives no character "
            "offsets; add its tokenizer.json to the folder"
        )
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    _check_beginning(tokenizer)
    return tokenizer


def _require_sentencepiece() -> None:
    for module, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
        try:
            installed = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # its parent is missing
            installed = False
        if not installed:
            raise ModelError(
                "the tokenizer is there only as tokenizer.model, and reading it needs the package "
                f"{package}; pip install {package}"
            )


def _load(folder: Path, core: Path) -> Any:
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    try:
        # By class, not by AutoTokenizer: that one asks config.json, whose type nobody knows, and
        # may follow an auto_map.
        classes: tuple[Any, Any] = (LlamaTokenizer, PreTrainedTokenizerFast)
        if core.is_file():
            text = json.loads(core.read_text(encoding="utf-8"))
            if not text["model"].get("byte_fallback"):
                return classes[1].from_pretrained(folder)
        return classes[0].from_pretrained(folder, legacy=True)
    except Exception as error:  # of the readers of several libraries
        raise ModelError(
            f"the tokenizer could not be read ({type(error).__name__}); download its files again"
        ) from error


def _check_beginning(tokenizer: Any) -> None:
    bos = tokenizer.bos_token_id
    if bos is None:
        raise ModelError("the tokenizer names no beginning-of-sequence token (bos_token)")
    if tokenizer("a")["input_ids"].count(bos) == 0:
        tokenizer.add_bos_token = True
    ids = tokenizer("a")["input_ids"]
    if ids.count(bos) != 1 or ids[0] != bos:
        raise ModelError(
            f"the tokenizer writes {tokenizer.bos_token} {ids.count(bos)} times before a text and "
            "the model expects it once; correct tokenizer_config.json"
        )
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if tokenizer(IMAGE_TOKEN, add_special_tokens=False)["input_ids"] != [image]:
        raise ModelError(f"the tokenizer splits {IMAGE_TOKEN}, which must be one token")
