"""The head by hand."""

from __future__ import annotations

import pytest
import torch

from mrrag_llamaindex.towers.projection_head import ProjectionHead


@pytest.mark.slow
def test_a_head_standardises_by_the_training_features() -> None:
    head = ProjectionHead(3, 2)
    # deviations 2, 1 and 0; the last is raised to a tenth of their mean, 1
    head.standardise(torch.tensor([[1.0, 5.0, 7.0], [5.0, 7.0, 7.0]]))
    assert head.mean.tolist() == [3.0, 6.0, 7.0]
    assert head.scale.tolist() == pytest.approx([2.0, 1.0, 0.1])
    with torch.no_grad():
        head.layers[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]))
        head.layers[0].bias.zero_()
        assert head(torch.tensor([[5.0, 4.0, 7.0]])).tolist() == [[1.0, -2.0]]
