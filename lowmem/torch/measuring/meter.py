"""How many bytes PyTorch holds: on the processor from its profiler of allocations, on a GPU from its allocator.

A meter is marked at moments of interest. Afterwards it tells the bytes that lived at each mark, and the most that
lived between two. Both are exact: every allocation and every free is seen. What libraries below PyTorch allocate for
themselves is not.
"""

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import torch

from lowmem.errors import InputError

MARK = 1_000_003
"""Bytes of a tensor that is made and dropped at a mark, to be found again in the list of allocations."""


GRANULE = 512
"""Bytes to which a GPU's allocator rounds up."""


@dataclass
class Readings:
    """Bytes above those at the first mark: `live[n]` at mark n, `peaks[n]` the most from mark n to mark n + 1."""

    live: list[int] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


class Meter(Protocol):
    """What measures a block of code: a context, in which `mark` is called."""

    readings: Readings

    def __enter__(self) -> "Meter":
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; the readings are there from now on."""

    def mark(self) -> int:
        """Set a mark and return its number."""


class ProcessorMeter:
    """Reads the profiler's list of allocations when it is done."""

    def __init__(self) -> None:
        self.readings = Readings()
        self._marks = 0

    def __enter__(self) -> "ProcessorMeter":
        """Start the profiler."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it says on stderr that it has started
        self._profile = torch.autograd.profiler.profile(use_cpu=True, profile_memory=True)
        self._profile.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the profiler and add up what it saw."""
        self._profile.__exit__(kind, error, trace)
        if kind is None:
            events = self._profile.kineto_results.events()
            seen = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
            seen.sort(key=lambda event: event[0])
            self._add_up([size for _, size in seen])
        del self._profile

    def mark(self) -> int:
        """Set a mark."""
        torch.empty(MARK, dtype=torch.uint8)
        self._marks += 1
        return self._marks - 1

    def _add_up(self, sizes: list[int]) -> None:
        """Turn changes into readings."""
        live = peak = 0
        readings = self.readings
        for size in sizes:
            if size == MARK:
                if readings.live:
                    readings.peaks.append(peak)
                readings.live.append(live)
                peak = live
            elif size != -MARK:
                live += size
                peak = max(peak, live)
        if len(readings.live) != self._marks:
            raise RuntimeError("the profiler has lost allocations; measure in another process.")
        first = readings.live[0] if readings.live else 0
        readings.live = [value - first for value in readings.live]
        readings.peaks = [value - first for value in readings.peaks]


class DeviceMeter:
    """Asks the allocator of a GPU for the bytes that were requested of it.

    It rounds each request up to 512 bytes, which padding adds. Unless PyTorch is told to use expandable segments, it
    may also give a tensor a block that it has at hand and that is up to 1 MiB larger, and counts the whole block as
    allocated. What is at hand depends on all that ran before, so no plan can know.
    """

    def __init__(self, device: torch.device, *, padded: bool) -> None:
        self.readings = Readings()
        self._device, self._of, self._padding = device, torch.get_device_module(device), GRANULE if padded else 0
        # Other allocators than PyTorch's own do not count requests.
        requests = self._of.memory_stats(device).get("requested_bytes.all.allocated", 0)
        self._name = "requested_bytes" if requests else "allocated_bytes"

    def __enter__(self) -> "DeviceMeter":
        """Note where the count begins."""
        self._start = self._read("current")
        self._of.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: readings are complete."""

    def _read(self, what: str) -> int:
        """Return bytes now ("current"), or the most since the last mark ("peak")."""
        stats = self._of.memory_stats(self._device)
        return int(stats[f"{self._name}.all.{what}"] + self._padding * stats[f"allocation.all.{what}"])

    def mark(self) -> int:
        """Set a mark."""
        if self.readings.live:
            self.readings.peaks.append(self._read("peak") - self._start)
        self._of.reset_peak_memory_stats(self._device)
        self.readings.live.append(self._read("current") - self._start)
        return len(self.readings.live) - 1


def meter(device: torch.device, *, padded: bool = True) -> Meter:
    """Return a meter for a device. padded: each piece of memory counts with the most that rounding may add.

    Tensors that wait for Python's garbage collection go first: freed later, they would count against what is measured.
    """
    gc.collect()
    return ProcessorMeter() if device.type == "cpu" else DeviceMeter(device, padded=padded)


def granule(device: torch.device) -> int:
    """Return the bytes of which each piece of memory is a multiple."""
    return 1 if device.type == "cpu" else GRANULE


def check_device(device: torch.device) -> None:
    """Refuse a device whose memory cannot be measured."""
    if device.type != "cpu":
        try:
            of = torch.get_device_module(device)
            of.init()
            of.memory_stats(device)["allocation.all.current"]
        except (AttributeError, AssertionError, RuntimeError, KeyError):
            raise InputError(
                f"memory cannot be measured on the device {str(device)!r}. Plan on 'cpu' or 'cuda', where training is."
            ) from None


def wake(device: torch.device) -> None:
    """Let the thread that runs backward passes on a GPU run a kernel; cuBLAS warns where its product is the first."""
    if device.type != "cpu":
        torch.ones((), device=device, requires_grad=True).mul(2).backward()


def measured_peak(step: Callable[[], Any], device: "torch.device | str" = "cpu") -> int:
    """Return the most bytes that PyTorch held while `step()` ran, above what it held before.

    step: a training step. What it returns is held until the end, as a training loop holds its loss. Run one step
    before, as libraries allocate at their first use, and set gradients to None where a plan counts them.

    On a GPU these are the bytes that were requested. `torch.cuda.max_memory_allocated` also counts what the allocator
    gives beyond that: a tensor above 1 MiB may get a block that is up to 1 MiB larger. With expandable segments
    (PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True) it gives less than 512 bytes more.
    """
    try:
        where = torch.device(device)
    except RuntimeError:
        raise InputError(f"PyTorch knows no device {device!r}. Write 'cpu' or 'cuda'.") from None
    check_device(where)
    with meter(where, padded=False) as of_step:
        of_step.mark()
        held = step()
        of_step.mark()
    del held
    return of_step.readings.peaks[0]
