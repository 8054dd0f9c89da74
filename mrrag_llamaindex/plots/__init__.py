"""Pictures of what the commands print with ``--json``, in one style (the extra ``plot``)."""

from mrrag_llamaindex.plots.calibration import draw_calibration
from mrrag_llamaindex.plots.knockout import draw_knockout
from mrrag_llamaindex.plots.learned import draw_fusion, draw_towers
from mrrag_llamaindex.plots.noise import draw_noise
from mrrag_llamaindex.plots.style import save
from mrrag_llamaindex.plots.table import draw_table

__all__ = [
    "draw_calibration",
    "draw_fusion",
    "draw_knockout",
    "draw_noise",
    "draw_table",
    "draw_towers",
    "save",
]
