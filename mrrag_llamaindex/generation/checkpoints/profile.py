"""What is known about one generator: its prompt layout and the layers that carry evidence."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.steering.policy import checked_layers

PROFILE_FILE = "mrrag_profile.json"


@dataclass(frozen=True)
class PromptTemplate:
    """Layout of the prompt: image, then documents, then the question.

    The order is not an option. Attention is causal, so question tokens can only be steered
    towards documents that stand before them; with the question first, IFA is an exact no-op.

    Parameters
    ----------
    opening : str
        Start of the user turn; holds ``<image>`` once. Dropped image: the marker is removed.
    introduction : str
        Text before the documents; may use ``{count}``. Used only when there are documents.
    document : str
        One document; uses ``{text}``, may use ``{number}`` (from 1).
    caution : str
        Text between the documents and the question. Used only when there are documents.
    question : str
        Uses ``{question}``.
    closing : str
        End of the user turn, after which the model answers.
    answer_opening : str
        Written between `closing` and the answer of an earlier turn; the model writes it itself.
    turn_end : str
        Written after an assistant turn of an earlier exchange, before the next user turn.
    turn_opening : str
        Start of each later user turn.
    opening_without_image : str or None
        Start of the user turn of a question without an image; None: `opening` up to ``<image>``.
    between_images : str or None
        Written between the images of one question; None for a model that reads one image only.

    Raises
    ------
    ValueError
        If a required placeholder is absent.

    Notes
    -----
    The default is the ``mistral_instruct`` layout of LLaVA-Med 1.5. Its sentences are ours: the
    order of roles follows RULE's chest template (references, caution, question last).
    """

    opening: str = "[INST] <image>\n"
    introduction: str = (
        "Below are {count} reference reports of other patients with similar images.\n"
    )
    document: str = "Report {number}: {text}\n"
    caution: str = (
        "The reports describe other patients: compare with them, do not copy a diagnosis from "
        "them. Answer about the image above; start with yes or no if that answers the question.\n"
    )
    question: str = "Question: {question}"
    closing: str = " [/INST]"
    answer_opening: str = " "
    turn_end: str = "</s>"
    turn_opening: str = "[INST] "
    opening_without_image: str | None = None
    between_images: str | None = None

    def __post_init__(self) -> None:
        for name, placeholder in (
            ("opening", "<image>"),
            ("document", "{text}"),
            ("question", "{question}"),
        ):
            if getattr(self, name).count(placeholder) != 1:
                raise ValueError(f"PromptTemplate.{name} must hold {placeholder} exactly once")


@dataclass(frozen=True)
class ModelProfile:
    """Prompt layout and critical layers of one generator.

    Parameters
    ----------
    template : PromptTemplate
    critical_layers : tuple of int or None
        Layers found by attention knockout (or an equal experiment) on this very model.
        ``None``: unknown, see `middle_third`.
    conversational : bool
        Whether the model understands earlier turns and can rephrase a follow-up question.
    note : str
        How the layers were found.
    identity : str
        Of the model that they were found on, see `profile_identity`; empty for a profile that was
        written by hand.
    """

    template: PromptTemplate = field(default_factory=PromptTemplate)
    critical_layers: tuple[int, ...] | None = None
    conversational: bool = True
    note: str = ""
    identity: str = ""

    @classmethod
    def load(cls, folder: Path) -> ModelProfile:
        """Read `PROFILE_FILE` from a model folder, see `read`; without one, the default profile."""
        path = folder / PROFILE_FILE
        return cls.read(path, f"{PROFILE_FILE} in the model folder") if path.is_file() else cls()

    @classmethod
    def read(cls, path: Path, name: str = "") -> ModelProfile:
        """Read a profile file, called ``name`` in messages.

        Raises
        ------
        ModelError
            If it is not a profile.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            conversational = data.get("conversational", True)
            if not isinstance(conversational, bool):
                raise ValueError(f"conversational is {conversational!r}, and not true or false")
            return cls(
                template=PromptTemplate(**data.get("template", {})),
                critical_layers=checked_layers(data.get("critical_layers")),
                conversational=conversational,
                note=str(data.get("note", "")),
                identity=str(data.get("identity", "")),
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{name or path.name} is not a model profile ({error}); "
                "correct it, or remove it to use the defaults"
            ) from error

    def layers_for(self, text_config: Any, model: str) -> tuple[int, ...]:
        """Return the critical layers; those of `middle_third` if none are known.

        Parameters
        ----------
        text_config : PretrainedConfig
        model : str
            Name of the model, for the message.

        Raises
        ------
        ModelError
            If the profile names a layer that the model does not have.
        """
        layers = int(text_config.num_hidden_layers)
        kinds = getattr(text_config, "layer_types", None) or ()
        sliding = [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
        critical = self.critical_layers or middle_third(layers, sliding)
        if max(critical) >= layers:
            raise ModelError(
                f"the profile of model {model!r} names layer {max(critical)}, and the model has "
                f"{layers} layers: the profile belongs to another model"
            )
        return critical

    def save(self, folder: Path) -> None:
        """Write `PROFILE_FILE` into ``folder``."""
        self.write(folder / PROFILE_FILE)

    def write(self, path: Path) -> None:
        """Write the profile to a file, whole or not at all."""
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")


def middle_third(layers: int, sliding: Collection[int] = ()) -> tuple[int, ...]:
    """Layers ``[n // 3, n - n // 3)``: the choice for a model whose profile is not known.

    Cross-modal flow studies (Zhang et al., CVPR 2025) find evidence-to-question flow in lower
    and middle layers. It is a stand-in; knockout on the model itself is the right way.

    Parameters
    ----------
    layers : int
        Layers of the model.
    sliding : collection of int
        Layers whose attention reaches back a limited number of tokens, so that the question may
        not see the documents there; left out, unless that leaves none.

    Examples
    --------
    >>> middle_third(6)
    (2, 3)
    >>> middle_third(12, sliding=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    (5,)
    """
    middle = tuple(range(layers // 3, max(layers // 3 + 1, layers - layers // 3)))
    return tuple(layer for layer in middle if layer not in sliding) or middle
