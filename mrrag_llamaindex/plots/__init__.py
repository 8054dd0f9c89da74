"""Pictures of what the commands print with ``--json``, in one style (the extra ``plot``)."""

from mrrag_llamaindex.plots.calibration import draw_calibration
from mrrag_llamaindex.plots.knockout import draw_knockout
from mrrag_llamaindex.plots.style import save

__all__ = ["draw_calibration", "draw_knockout", "save"]
