"""Tables of the site that the registries of the package print: none is kept by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

from mrrag_llamaindex import defaults
from mrrag_llamaindex.evaluation.data.readers.by_name import data_sets_markdown
from mrrag_llamaindex.evaluation.markdown import markdown_table
from mrrag_llamaindex.evaluation.methods.registry import methods_markdown
from mrrag_llamaindex.evaluation.tasks.registry import tasks_markdown
from mrrag_llamaindex.generation.checkpoints.families import FAMILIES
from mrrag_llamaindex.mcr.blocks import TERM_BLOCKS
from mrrag_llamaindex.steering.policies.registry import POLICIES
from mrrag_llamaindex.store.backends import BACKENDS, backend_of
from mrrag_llamaindex.towers.loading import Kind


def first_sentence(thing: Any) -> str:
    """Return the first line of a docstring, without the blanks that would break a cell."""
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("|", "\\|")


def _yes(value: object) -> str:
    return "yes" if value else "no"


def families() -> str:
    """Return the kinds of generator that can be steered."""
    rows = [
        (
            f"`{family.model_type}`",
            f"`{family.model_class}`",
            "several" if family.several_images else "one",
            _yes(family.shares_prefix),
        )
        for family in FAMILIES.values()
    ]
    head = ("`model_type`", "class in transformers", "images of a question", "prefix shared")
    return markdown_table(head, rows)


def shipped() -> str:
    """Return the models that are shipped."""
    rows = [(f"`{name}`", f"`{folder}`") for name, folder in defaults.PHANTOM_MODELS.items()]
    return markdown_table(("`--model`", "folder of `phantom/weights`"), rows)


def towers() -> str:
    """Return the classes of towers."""
    from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
    from mrrag_llamaindex.towers.kinds.hf_dual import HFDualTower
    from mrrag_llamaindex.towers.kinds.open_clip import OpenClipTower
    from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower

    kinds = (ResNetBertTower, FrozenTower, HFDualTower, OpenClipTower)
    if len(kinds) != len(get_args(Kind)):
        raise RuntimeError("tools/site/tables.py does not know every kind of towers")
    return markdown_table(
        ("class", "what"), [(f"`{kind.__name__}`", first_sentence(kind)) for kind in kinds]
    )


def policies() -> str:
    """Return the steering policies by their names in commands."""
    rows = [
        (f"`{name}`", f"`{policy.__name__}`", first_sentence(policy))
        for name, policy in POLICIES.items()
    ]
    return markdown_table(("name", "class", "what it does"), rows)


def terms() -> str:
    """Return the similarity terms and what each compares."""
    rows = [
        (f"`{name}`", f"{query[0]}, {query[1]}", f"{pair[0]}, {pair[1]}")
        for name, (query, pair) in TERM_BLOCKS.items()
    ]
    return markdown_table(("term", "of the question", "of the pair"), rows)


_PLACES: Final[Sequence[str]] = (
    "numpy",
    "postgresql://user@host/database",
    "qdrant+http://host:6333",
    "milvus+http://host:19530",
    "memory",
    "store",
    "http://127.0.0.1:8000",
)
"""One place of each kind; which class takes it is asked, not written down."""


def stores() -> str:
    """Return where a store may be, and the class that keeps it."""
    rows = []
    for place in _PLACES:
        kind = backend_of(place)
        rows.append((f"`{place}`", f"`{kind.__name__}`", first_sentence(kind)))
    missing = len(BACKENDS) - len({name for _, name, _ in rows})
    if missing:
        raise RuntimeError(f"{missing} back ends have no place in tools/site/tables.py")
    return markdown_table(("place", "class", "what"), rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "families": families,
    "shipped": shipped,
    "towers": towers,
    "policies": policies,
    "terms": terms,
    "stores": stores,
    "methods": methods_markdown,
    "data-sets": data_sets_markdown,
    "tasks": tasks_markdown,
}
"""What a page may ask for by ``<!-- generate: NAME -->``."""
