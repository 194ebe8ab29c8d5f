"""How many bytes PyTorch holds: on the processor from its profiler of allocations, on a GPU from its allocator.

A meter is marked at moments of interest. Afterwards it tells the bytes that lived at each mark, and the most that
lived between two. Both are exact: every allocation and every free is seen. What libraries below PyTorch allocate for
themselves is not.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import torch

MARK = 1_000_003
"""Bytes of a tensor that is made and dropped at a mark, to be found again in the list of allocations."""


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
    """Asks the allocator of a GPU, which counts in blocks of 512 bytes."""

    def __init__(self, device: torch.device) -> None:
        self.readings = Readings()
        self._device, self._of = device, torch.get_device_module(device)

    def __enter__(self) -> "DeviceMeter":
        """Note where the count begins."""
        self._start = self._of.memory_allocated(self._device)
        self._of.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: readings are complete."""

    def mark(self) -> int:
        """Set a mark."""
        if self.readings.live:
            self.readings.peaks.append(self._of.max_memory_allocated(self._device) - self._start)
        self._of.reset_peak_memory_stats(self._device)
        self.readings.live.append(self._of.memory_allocated(self._device) - self._start)
        return len(self.readings.live) - 1


def meter(device: torch.device) -> Meter:
    """Return a meter for a device."""
    return ProcessorMeter() if device.type == "cpu" else DeviceMeter(device)


def measured_peak(step: Callable[[], Any], device: "torch.device | str" = "cpu") -> int:
    """Return the most bytes that PyTorch held while `step()` ran, above what it held before.

    step: a training step. What it returns is held until the end, as a training loop holds its loss. Run one step
    before, as libraries allocate at their first use, and set gradients to None where a plan counts them.
    """
    with meter(torch.device(device)) as of_step:
        of_step.mark()
        held = step()
        of_step.mark()
    del held
    return of_step.readings.peaks[0]
