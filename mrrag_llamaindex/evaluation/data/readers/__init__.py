"""Data sets on disk, read into `EvaluationSet`: one file per layout."""

from mrrag_llamaindex.evaluation.data.readers.by_name import DATA_SETS, read_data

__all__ = ["DATA_SETS", "read_data"]
