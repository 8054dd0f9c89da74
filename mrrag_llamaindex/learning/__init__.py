"""Everything that is learned from pairs and questions; needs the extra ``learn``."""

from importlib.util import find_spec

from mrrag_llamaindex.errors import MRRAGError

if not (find_spec("sklearn") and find_spec("scipy")):
    raise MRRAGError(
        'learning and evaluation need scikit-learn and scipy: pip install "mrrag-llamaindex[learn]"'
    )
