"""The script's training beside PyTorch's: both follow one path, so their times compare the same work."""

from typing import Any

import pytest

from scripts import torch_training, trainings
from scripts.train_in_little import ON_MNIST

pytest.importorskip("torch")


@pytest.mark.parametrize("fused", [False, True])
def test_both_reach_the_same_loss(fused: bool) -> None:
    small = {"data": ["digits", None], "widths": [64, *[32] * 10, 10], "epochs": 3}
    case: dict[str, Any] = {**ON_MNIST, **small, "limit": None, "how": "none", "fused": fused}
    ours, theirs = trainings.train(case), torch_training.train(case)
    assert ours["steps"] == theirs["steps"] == 3 * 15
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
