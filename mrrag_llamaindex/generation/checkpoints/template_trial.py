"""A chat template is a program of the checkpoint's author: it is tried where it can be stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from mrrag_llamaindex.errors import ModelError

SECONDS: Final = 20.0
"""Of wall time, the start of Python included; a real template takes a hundredth of one."""

MOST_CHARACTERS: Final = 1_000_000
"""Of a template, and of what it writes."""

_MOST_MEMORY = 1 << 30

# The environment is that of transformers, without transformers: it takes seconds to import.
_PROGRAM = """
import json, sys
task = json.load(sys.stdin)
sys.path[:] = task["path"]
import jinja2, jinja2.ext, jinja2.sandbox, datetime
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (task["memory"], task["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (task["seconds"], task["seconds"]))
except (ImportError, ValueError, OSError):
    pass
class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)
def refuse(message):
    raise jinja2.exceptions.TemplateError(message)
written = 0
try:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = lambda value, *a, **k: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    for variables in task["variables"]:
        for part in environment.from_string(task["template"]).generate(**variables):
            written += len(part)
            if written > task["characters"]:
                sys.exit(3)
except MemoryError:
    sys.exit(3)
except Exception:
    pass  # an error of the template: whoever renders it next will see it, too
"""


def try_template(
    chat_template: str,
    variables: dict[str, Any],
    source: str,
    *,
    also: Sequence[dict[str, Any]] = (),
    seconds: float = SECONDS,
) -> None:
    """Render a template in a process of its own, with little time and memory.

    Parameters
    ----------
    chat_template : str
    variables : dict
        What it is rendered with, as JSON.
    source : str
        Name of the model, for messages.
    also : sequence of dict
        Other variables that it is rendered with afterwards.
    seconds : float
        Longest run, of all of them together.

    Raises
    ------
    ModelError
        If it does not end, takes too much memory, or writes too much. Its other errors are not
        raised here.
    """
    refused = ModelError(
        f"the chat template of model {source!r} does not end, or takes too much memory; correct "
        "chat_template.jinja in the model folder"
    )
    if len(chat_template) > MOST_CHARACTERS:
        raise refused
    task = {
        "template": chat_template,
        "variables": [variables, *also],
        "path": sys.path,
        "memory": _MOST_MEMORY,
        "seconds": max(1, int(seconds)),
        "characters": MOST_CHARACTERS,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=json.dumps(task).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise refused from None
    if done.returncode != 0:
        raise refused
