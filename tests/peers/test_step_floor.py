"""The floor of PyTorch's step is made of the same products as that of NumPy's."""

from typing import Any

import pytest
import torch

from scripts.turns import floor_step

WIDTHS, ROWS = [8, 16, 4], 32


def test_pytorch_multiplies_what_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    product: Any = torch.mm

    def mm(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> None:
        assert (a.dtype, out.dtype) == (torch.float32, torch.float32)
        shapes.append((*out.shape, a.shape[1]))
        product(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    floor_step({"widths": WIDTHS, "batch": ROWS, "library": "torch"})()
    # Forward; then of each layer the gradient, and δ of the layer below, but for the first.
    assert shapes == [(ROWS, 16, 8), (ROWS, 4, 16), (4, 16, ROWS), (ROWS, 16, 4), (16, 8, ROWS)]
