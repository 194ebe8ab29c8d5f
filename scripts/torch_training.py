"""A case of `scripts.train_in_little` trained with PyTorch, in this process.

Same first weights, and the same batches in the same order: lowmem's stream hands them out to both. So what differs is
the step and what the process holds for it; no data set lies in memory on either side. Everything is stored; Adam is
PyTorch's default or, with `fused` in the case, its fused kernel.
"""

import sys
from typing import Any

from numpy.typing import NDArray

from lowmem.common.process_memory import resident
from lowmem.measure.memory import resident_peak
from lowmem.nn.mlp import MLP
from scripts.measuring import Case
from scripts.trainings import EnoughError, Laps, made, opened, rates

Array = NDArray[Any]


def train(case: Case) -> Case:
    """Train a case; where PyTorch does not import, say so."""
    try:
        import torch
        import torch._dynamo  # what the first optimizer loads
    except ImportError as problem:
        return {"skipped": f"PyTorch does not import: {problem}"}
    floor = resident()
    stream, _ = opened(case)
    mlp = made(case)
    model = model_of(mlp)
    optimizer = torch.optim.Adam(model.parameters(), lr=case["lr"], fused=case["fused"])
    schedule, number = rates(case, len(stream)), 0
    batches = stream.batches(case["batch"], mlp.architecture, case.get("seed", 0))
    laps, done, loss = Laps(case.get("steps")), 0, None
    try:
        for epoch in range(case.get("epochs_run") or case["epochs"]):
            total = 0.0
            for batch in batches.epoch(epoch):
                if schedule is not None:
                    optimizer.param_groups[0]["lr"] = schedule.at(number)
                total, number = total + step(model, optimizer, batch.x, batch.y) * len(batch), number + 1
                laps.take()
            loss, done = total / len(stream), epoch + 1
            print(f"epoch {done}: loss {loss:.4f}", file=sys.stderr, flush=True)
    except EnoughError:
        pass
    found = {"peak_bytes": resident_peak(), "floor_bytes": floor, "loss": loss}
    return laps.summary() | laps.of_epochs(done) | found


def model_of(mlp: MLP) -> Any:  # noqa: ANN401 - a module of PyTorch
    """Return the same network, with copies of the weights."""
    import torch

    activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[mlp.architecture.activation]
    layers: list[Any] = []
    for w, b in zip(mlp.weights, mlp.biases, strict=True):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, w.shape[1], w.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, activation()]
    return torch.nn.Sequential(*layers[:-1])


def step(model: Any, optimizer: Any, x: Array, y: Array) -> float:  # noqa: ANN401 - PyTorch's
    """Run a step and return the loss before its update."""
    import torch

    loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())
