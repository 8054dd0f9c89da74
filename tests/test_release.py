"""What a release stands on: one version, complete contents, workflows that call what exists."""

from __future__ import annotations

import ast
import re
from math import prod
from pathlib import Path

import pytest

import mrrag_llamaindex
from mrrag_llamaindex import defaults
from mrrag_llamaindex.files.safetensors_header import read_header
from tools.release.contents import NEEDED, sdist_problems, stated_version, wheel_problems
from tools.release.licences import binds

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VERSION = mrrag_llamaindex.__version__


def test_the_version_stands_in_one_place_and_the_others_follow():
    assert stated_version(ROOT / "mrrag_llamaindex") == VERSION
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["urls", "version"]' in project
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert VERSION in headings[:2]


def test_pythons_are_the_same_wherever_they_are_named():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pythons = re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    assert f'requires-python = ">={pythons[0]}' in project
    assert f"PYTHONS = {pythons}".replace("'", '"') in (ROOT / "noxfile.py").read_text()
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    assert re.findall(r"newest-(3\.\d+)", nightly) == pythons


def metadata(version: str = VERSION) -> str:
    return f"Metadata-Version: 2.4\nVersion: {version}\nLicense-Expression: Apache-2.0\n\nText\n"


def names() -> list[str]:
    about = f"mrrag_llamaindex-{VERSION}.dist-info"
    own = ("licenses/LICENSE", "entry_points.txt", "METADATA")
    return [*(f"mrrag_llamaindex/{name}" for name in NEEDED), *(f"{about}/{name}" for name in own)]


def test_a_whole_wheel_passes_and_each_fault_of_another_is_named():
    assert wheel_problems(names(), metadata(), 6_000_000, VERSION) == []
    lacking = [name for name in names() if not name.endswith("llava/model.safetensors")]
    foreign = [*lacking, "tests/test_x.py", "mrrag_llamaindex/__pycache__/a.pyc"]
    problems = "\n".join(wheel_problems(foreign, metadata("0.0.1"), 13_000_000, VERSION))
    for word in ("lacks phantom/weights/llava", "13.0 MB", "tests/", "a.pyc", "version 0.0.1"):
        assert word in problems
    assert any("LICENSE" in one for one in sdist_problems(["x/README.md"], VERSION))


def test_a_release_names_the_repository_that_makes_it(monkeypatch):
    monkeypatch.setenv("MRRAG_REPOSITORY", "https://example.org/us/mrrag")
    (problem,) = wheel_problems(names(), metadata(), 6_000_000, VERSION)
    assert problem == "does not name its repository, https://example.org/us/mrrag"
    named = f"Project-URL: Repository, https://example.org/us/mrrag\n{metadata()}"
    assert wheel_problems(names(), named, 6_000_000, VERSION) == []
    monkeypatch.setenv("MRRAG_REPOSITORY", "https://example.org/us/mrrag/")
    assert wheel_problems(names(), named, 6_000_000, VERSION) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", None),
        ("https://example.org/us/mrrag/", "https://example.org/us/mrrag"),
        ("https://us:secret@example.org/us/mrrag", ValueError),
        ("https://example.org", ValueError),
        ("https://example.org/us/mrrag\nX: y", ValueError),
        ("http://example.org/us/mrrag", ValueError),
    ],
)
def test_a_package_names_the_repository_that_is_given_and_no_other(monkeypatch, given, expected):
    pytest.importorskip("hatchling")
    from hatch_build import RepositoryUrls

    monkeypatch.setenv("MRRAG_REPOSITORY", given)
    metadata: dict = {}
    if expected is ValueError:
        with pytest.raises(ValueError, match="https://host/owner/name") as refused:
            RepositoryUrls(str(ROOT), {}).update(metadata)
        assert "secret" not in str(refused.value)
    else:
        RepositoryUrls(str(ROOT), {}).update(metadata)
        assert metadata.get("urls", {}).get("Repository") == expected


def test_what_a_wheel_needs_is_in_the_checkout():
    assert all((ROOT / "mrrag_llamaindex" / name).is_file() for name in NEEDED)


def test_the_model_card_counts_the_parameters_that_are_shipped():
    card = (ROOT / "docs" / "cards" / "models.md").read_text(encoding="utf-8")
    for folder, count in re.findall(r"^\| `(\w+)` \|.*?\| ([\d,]+) \|", card, re.M):
        tensors = read_header(defaults.PHANTOM_FOLDER / folder / "model.safetensors")
        assert f"{sum(prod(tensor.shape) for tensor in tensors):,}" == count


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0-only", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("MIT; GNU General Public License (GPL)", False),
        ("Apache-2.0", False),
    ],
)
def test_licences_that_bind_are_told_from_those_that_do_not(licence, expected):
    assert binds(licence) is expected


def sessions() -> set[str]:
    """Names of the nox sessions, with their Pythons where they have several."""
    found: set[str] = set()
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        decorators = " ".join(map(ast.unparse, getattr(node, "decorator_list", ())))
        if "nox.session" in decorators:
            versions = ("3.10", "3.11", "3.12", "3.13") if "PYTHONS" in decorators else ()
            found |= {node.name, *(f"{node.name}-{version}" for version in versions)}
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_ask_for_little_and_call_what_exists(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job, name
        for step in job["steps"]:
            assert re.search(r"@(v\d|release/v\d)", step.get("uses", "@v1")), step
    called = re.findall(r"nox -s ((?:[\w.-]+ ?)+?)(?: -- |$)", text, re.M)
    called = [one for call in called for one in call.split() if "$" not in one]
    called += re.findall(r"session: ([\w.-]+)", text)
    assert set(called) <= sessions()
    for script in re.findall(r"\b(tools/[\w/.-]+|\.ci/run)\b", text):
        assert (ROOT / script).exists(), script


def test_only_publishing_may_name_itself_to_the_registry():
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    jobs = release["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "permissions" not in jobs["build"]
    assert jobs["publish"]["needs"] == "build"
    assert "tag" in jobs["publish"]["if"]
    assert "password" not in str(release)


def test_issue_forms_are_whole():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem != "config":
            assert {"name", "description", "body"} <= set(form)
            ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
            assert len(ids) == len(set(ids)) > 0
