"""A docstring that lists arguments lists all of them: a partial list reads as complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "mrrag_llamaindex").rglob("*.py"))
SECTION = re.compile(r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=^\w[^\n]*\n-+$|\Z)", re.M | re.S)
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .+)?$", re.M)

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt], parent: str = "") -> Iterator[tuple[str, Documented]]:
    """Functions, classes and methods, with their qualified names; nothing inside a function."""
    for node in body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield parent + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{parent}{node.name}.")


def listed(node: Documented) -> set[str] | None:
    """Names in the sections Parameters and Attributes; None without such a section."""
    sections = SECTION.findall(ast.get_docstring(node) or "")
    names = (
        name
        for section in sections
        for entry in ENTRY.findall(section)
        for name in entry.split(", ")
    )
    return {name.lstrip("*") for name in names} if sections else None


def signature(node: Documented) -> list[str]:
    """Arguments of a function; of a class those of its ``__init__``, and its annotated fields."""
    if isinstance(node, ast.ClassDef):
        names = []
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                names += signature(member)
            elif isinstance(member, ast.AnnAssign) and "ClassVar" not in ast.unparse(member):
                names.append(ast.unparse(member.target))
    else:
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
    return [name for name in names if not name.startswith("_")]


def omissions(source: str) -> dict[str, list[str]]:
    """Qualified name to what its docstring leaves out, where it leaves out something."""
    found = {
        name: [argument for argument in signature(node) if argument not in names]
        for name, node in public(ast.parse(source).body)
        if (names := listed(node)) is not None
    }
    return {name: missing for name, missing in found.items() if missing}


def test_a_list_of_arguments_is_complete():
    found = {
        file.relative_to(ROOT).as_posix(): omissions(file.read_text(encoding="utf-8"))
        for file in FILES
    }
    assert {name: missing for name, missing in found.items() if missing} == {}


PARTIAL = '''
class Window:
    """A window.

    Attributes
    ----------
    rows, columns : int
    """

    rows: int
    columns: int
    weights: float
    limit: ClassVar[int]
    _cache: int

    def cut(self, start, *rest, stop, step=1, _all=False, **options):
        """Cut.

        Parameters
        ----------
        start : int
            What
            stop : is described as, is no entry.
        step

        Returns
        -------
        stop : int
        """

    def move(self, by):
        """Move; nothing is listed."""
'''


def test_what_a_list_leaves_out_is_named():
    assert omissions(PARTIAL) == {"Window": ["weights"], "Window.cut": ["stop"]}
