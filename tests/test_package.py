"""Importing the package costs nothing and changes nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import mrrag_llamaindex
from mrrag_llamaindex import errors
from mrrag_llamaindex.commands.console import OneLineErrors

PROBE = """
import json, sys, time
started = time.perf_counter()
import mrrag_llamaindex
seconds = time.perf_counter() - started
heavy = ("torch", "transformers", "chromadb", "llama_index", "numpy", "PIL", "sklearn")
print(json.dumps({"seconds": seconds, "heavy": [name for name in heavy if name in sys.modules]}))
"""


def test_import_is_light_and_loads_nothing_heavy():
    run = [sys.executable, "-c", PROBE]
    results = [json.loads(subprocess.check_output(run)) for _ in range(3)]
    assert results[0]["heavy"] == []
    assert min(result["seconds"] for result in results) < 0.3


@pytest.mark.parametrize("name", mrrag_llamaindex.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    assert getattr(mrrag_llamaindex, name).__doc__


WITHOUT_EXTRAS = """
import sys
blocked = dict.fromkeys(("matplotlib", "pydicom", "scipy", "sklearn", "typer"))
sys.modules.update(blocked)
from pathlib import Path
from tempfile import mkdtemp
import mrrag_llamaindex.steering
assert not {"torch", "transformers", "chromadb", "llama_index"} & set(sys.modules)
from transformers import AttentionInterface, AttentionMaskInterface
registries = (AttentionInterface, AttentionMaskInterface)
before = [dict(registry._global_mapping) for registry in registries]
loaded = set(sys.modules)
from mrrag_llamaindex.steering.attention.registry import register
import mrrag_llamaindex.steering.attention.model_class
assert not [name for name in set(sys.modules) - loaded if ".models.llava" in name]
from llama_index.core import QueryBundle
from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA
assert before == [registry._global_mapping for registry in registries]
register()
for old, registry in zip(before, registries):
    new = registry._global_mapping
    assert set(new) - set(old) == {"mrrag_ifa", "mrrag_ifa_eager", "mrrag_ifa_flex"}
    assert all(new[name] is old[name] for name in old)

from mrrag_llamaindex.phantom.corpus import as_pairs, make_corpus
folder = Path(mkdtemp())
corpus = make_corpus(seed=3, patients=8, queries=1, profiles=4)
pairs = as_pairs(corpus.studies, folder)
MRRAGIndex.from_pairs(pairs, towers="phantom", persist_dir=folder / "store")
corpus.queries[0].study.image.save(folder / "cxr.png")
index = MRRAGIndex.from_store(folder / "store")
engine = index.as_query_engine(llm=MRRAGLLaVA(model="phantom"))
print(engine.query(QueryBundle("Is there edema?", image_path=str(folder / "cxr.png"))))

del sys.modules["typer"]
from mrrag_llamaindex.cli import main
asking = ["ask", "--store", folder / "store", "--image", folder / "cxr.png", "--model", "phantom"]
for arguments in ([*asking, "--json", "Is there edema?"], ["train-fusion", "--data", "phantom"]):
    sys.argv = ["mrrag", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        print("code", end.code or 0)
"""


@pytest.mark.slow
def test_extras_are_needed_by_what_names_them_and_imports_register_nothing():
    """The three lines of the README need no extra, and ``ask`` none but that of the commands."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *told, learning = done.stdout.splitlines()
    assert first in ("yes", "no")
    # JSON is alone on the standard output of a real process.
    assert json.loads("\n".join(told[:-1]))["sources"]
    assert (told[-1], learning) == ("code 0", "code 2")
    assert "mrrag-llamaindex[learn]" in done.stderr


def test_help_is_shown_before_torch_is_imported():
    probe = (
        "import sys; sys.argv = ['mrrag', '--help']; import mrrag_llamaindex.cli as cli, atexit; "
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_command_without_its_extra_says_what_to_install(monkeypatch):
    app = typer.Typer(cls=OneLineErrors)
    app.callback()(lambda: None)

    @app.command()
    def measure() -> None:
        importlib.import_module("scipy.stats")

    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = CliRunner().invoke(app, ["measure"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        'error: scipy is not here: pip install "mrrag-llamaindex[learn]"'
    ]


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mrrag_llamaindex.Nothing  # noqa: B018


def test_every_error_survives_the_stock_synthesizer():
    """It swallows ValueError and TypeError, and its bridge from sync to async RuntimeError."""
    values = [value for value in vars(errors).values() if isinstance(value, type)]
    classes = [value for value in values if value.__module__ == errors.__name__]
    assert len(classes) > 5
    for one in classes:
        assert issubclass(one, Exception)
        assert not issubclass(one, (RuntimeError, ValueError, TypeError))
