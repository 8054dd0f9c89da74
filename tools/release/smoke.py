"""What a user does first, with the installed package alone: the three lines, and the demo."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path


def main() -> None:
    """Raise if anything fails; print what came back."""
    from llama_index.core.schema import QueryBundle

    import mrrag_llamaindex
    from mrrag_llamaindex import MRRAGIndex, MRRAGLLaVA
    from mrrag_llamaindex.phantom.corpus import as_pairs, make_corpus

    home = Path(sysconfig.get_paths()["purelib"])
    assert home in Path(mrrag_llamaindex.__file__).parents, mrrag_llamaindex.__file__
    assert importlib.metadata.version("mrrag-llamaindex") == mrrag_llamaindex.__version__
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_corpus(seed=3, patients=20, queries=1, profiles=4)
        pairs = as_pairs(corpus.studies, folder)
        MRRAGIndex.from_pairs(pairs, towers="phantom", persist_dir=folder / "store")
        image = folder / "cxr.png"
        corpus.queries[0].study.image.save(image)

        index = MRRAGIndex.from_store(folder / "store")
        engine = index.as_query_engine(llm=MRRAGLLaVA(model="phantom"))
        answer = engine.query(QueryBundle(corpus.queries[0].question, image_path=str(image)))

        assert str(answer) in ("yes", "no"), str(answer)
        assert len(answer.source_nodes) > 1
        mrrag = Path(sys.executable).with_name("mrrag")
        demo = [str(mrrag), "demo", "--out", str(folder / "demo")]
        shown = subprocess.run(demo, check=True, capture_output=True, text=True).stdout
        assert "p(yes)" in shown, shown
        status = [str(mrrag), "status", str(folder / "store")]
        assert (
            "pairs        20"
            in subprocess.run(status, check=True, capture_output=True, text=True).stdout
        )
    version = f"mrrag-llamaindex {mrrag_llamaindex.__version__}"
    print(f"{version} on Python {sys.version.split()[0]}: {answer}, and the demo")


if __name__ == "__main__":
    main()
