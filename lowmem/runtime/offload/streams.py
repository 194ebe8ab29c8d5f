"""Parameters and optimizer's arrays on a disk: each layer's fetched for its use and let go of behind it.

One thread carries out fetches and releases in the order in which they begin: so what is resident never exceeds what
the plan counts, however fast the disk is. The thread is there only while there is something to move and for a moment
after.
"""

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter
from typing import TYPE_CHECKING

from lowmem.common.disk.directions import IDLE, Traffic
from lowmem.errors import DiskError, LowmemError
from lowmem.planning.plan import Plan
from lowmem.planning.streamed import part_bytes
from lowmem.schedule.streaming import Move, Part

if TYPE_CHECKING:
    from lowmem.common.disk.paged_array import PagedArray


@dataclass(slots=True, eq=False)
class _Task:
    """A move on its way. drop: whether it lets go of the part. error: what went wrong, once it is done."""

    move: Move
    drop: bool
    done: bool = False
    error: Exception | None = None


class Streams:
    """What is streamed by a plan: the parameters, (P,), of a network on a disk, and the optimizer's arrays.

    parameters: None where they stay in memory. moments: none where they do.
    """

    def __init__(self, plan: Plan, parameters: "PagedArray | None", moments: "Sequence[PagedArray]") -> None:
        self._arrays: dict[Part, Sequence[PagedArray]] = {
            "w": () if parameters is None else (parameters,),
            "m": moments,
        }
        self._bounds = [*accumulate((layer.size for layer in plan.architecture.each_layer), initial=0)]
        self._sizes = part_bytes(plan.architecture, plan.optimizer)
        self._borders: dict[Part, int] = {"w": self._sizes.borders, "m": self._sizes.states * self._sizes.borders}
        self.traffic = Traffic()
        """Of all moves so far."""
        self.updating = False
        """Whether the pass at hand carries out its updates: else the optimizer's arrays stay on the disk."""
        self._held: dict[Part, int] = {"w": 0, "m": 0}
        self.most: dict[Part, int] = {"w": 0, "m": 0}
        """Bytes of each part when most of both were resident; without those of pages on the borders of layers."""
        self._changed = threading.Condition()
        self._start_anew()

    def _start_anew(self) -> None:
        """Forget what is in flight: nothing is, or it is the business of the process that was forked."""
        self._process = os.getpid()
        self._queue: deque[_Task] = deque()
        self._thread: threading.Thread | None = None
        self._here: dict[tuple[Part, int], _Task] = {}
        self._error: Exception | None = None
        self._touched = False

    def begin(self) -> None:
        """Be ready for a step."""
        if self._process != os.getpid():
            self._changed = threading.Condition()
            self._start_anew()
        self._error, self._touched, self._held = None, False, {"w": 0, "m": 0}

    def follow(self, move: Move) -> None:
        """Begin a transfer, or wait for one. Raises `DiskError` if it failed, or one begun before it."""
        if move.part == "m" and not self.updating:
            return
        part = move.part, move.layer
        match move.kind:
            case "fetch":
                self._here[part] = self._put(move, drop=False)
            case "arrive":
                self._touched |= self.updating
                self._wait(self._here[part])
            case "release":
                del self._here[part]
                self._put(move if self.updating else move._replace(changed=False), drop=True)

    def settle(self) -> None:
        """Wait until nothing is in flight. Raises `DiskError` if anything failed."""
        self._drain()
        self._check()

    def finish(self) -> None:
        """Let go of what a step that was broken off has left, and wait for that; errors have been told."""
        for part, layer in [*self._here]:
            # An update may have begun: writing what did not change does no harm.
            self._put(Move("release", layer, part, self._touched), drop=True)
        self._here.clear()
        self._drain()

    def resident(self, part: Part) -> int:
        """Return the most bytes of a part that were in memory at a time, those on the borders of layers included."""
        return self.most[part] + self._borders[part]

    def _put(self, move: Move, *, drop: bool) -> _Task:
        """Begin a move."""
        task = _Task(move, drop)
        with self._changed:
            self._queue.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lowmem streams", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return task

    def _wait(self, task: _Task) -> None:
        """Wait for a move, which ends all that were begun before it."""
        if not task.done:
            began = perf_counter()
            with self._changed:
                while not task.done:
                    self._changed.wait()
            self.traffic.waited += perf_counter() - began
        self._check()

    def _drain(self) -> None:
        """Wait until nothing is in flight."""
        with self._changed:
            while self._queue:
                self._changed.wait()

    def _check(self) -> None:
        """Raise the first error of the step, if there is one."""
        if self._error is None:
            return
        if isinstance(self._error, LowmemError):  # it may be that this process is not the one that made the array
            raise self._error
        kind, text = type(self._error).__name__, str(self._error)
        raise DiskError(f"the disk failed: {kind}{text and ': '}{text}.") from self._error

    def _work(self) -> None:
        """Carry out moves until none has come for a moment."""
        while True:
            with self._changed:
                if not self._queue:
                    self._changed.wait_for(lambda: self._queue, IDLE)
                if not self._queue:
                    self._thread = None
                    return
                task = self._queue[0]
            error = self._carry_out(task)
            with self._changed:
                if error is not None and self._error is None:
                    self._error = error
                task.done = True
                self._queue.popleft()
                self._changed.notify_all()

    def _carry_out(self, task: _Task) -> Exception | None:
        """Move a part. Returns the error that came up, None if it went well."""
        move, drop = task.move, task.drop
        start, stop = self._bounds[move.layer - 1], self._bounds[move.layer]
        size = self._sizes.moved(move)
        try:
            for array in self._arrays[move.part]:
                if drop:
                    array.drop(start, stop, changed=move.changed)
                else:
                    array.bring(start, stop, to_change=move.part == "m")
        except Exception as error:  # whatever it is, the step must hear of it: nobody else does
            return error
        if drop:
            self._held[move.part] -= size
            self.traffic.written += size * move.changed
        else:
            self._held[move.part] += size
            self.traffic.read += size
            if sum(self._held.values()) > sum(self.most.values()):
                self.most = dict(self._held)
        return None
