"""What of parameters and moments may lie on a disk, and what that takes: in memory, in files, moved. No NumPy."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from mmap import PAGESIZE
from typing import TypeAlias

from lowmem.errors import InputError
from lowmem.network.architecture import Architecture
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.engines.native_memory import THREAD_BYTES
from lowmem.planning.packing import Program
from lowmem.planning.request import PlanRequest, UpdateMode
from lowmem.schedule import Schedule
from lowmem.schedule.streaming import Moves, PartBytes, Streaming, moves, resident, runs_of, traffic
from lowmem.units import apart

AHEAD = (2, 1, 0)
"""For how many uses ahead parameters and moments are fetched where they are streamed."""


def variants(request: PlanRequest) -> Iterator[PlanRequest]:
    """Yield all requests that a plan may come from: first those with everything in memory, which use no disk.

    These are placed as without a disk, the others in whole pages. So no network needs more memory with a disk.
    """
    own = not isinstance(request.strategy, str)  # such a schedule may send states to the disk
    if not own:
        yield from without_states(request).weighed()
    if own or (request.spills and request.strategy == "auto"):
        yield from request.weighed()
    for one in _streamed(request):
        if one.update.fuses:
            yield one  # passes of fewer rows would keep the gradients of all layers
        else:
            yield from one.weighed()


def without_states(request: PlanRequest) -> PlanRequest:
    """Return a request with all states in memory: what it takes there is what it takes without a disk."""
    return request if request.disk is None else replace(request, disk=replace(request.disk, states=False))


def thriftiest(request: PlanRequest) -> Iterator[PlanRequest]:
    """Yield those of `variants` of which one takes the least memory: of all that stream alike, that which keeps least.

    How far ahead things are fetched changes what is in memory, and hardly anything else.
    """
    least: dict[object, PlanRequest] = {}
    for one in variants(request):
        kind = one.rows, one.spills, one.streaming and (one.streaming.parameters, one.streaming.moments)
        if kind not in least or sum(in_memory(one)) < sum(in_memory(least[kind])):
            least[kind] = one
    yield from least.values()


def _streamed(request: PlanRequest) -> Iterator[PlanRequest]:
    """Yield the request with the optimizer's arrays streamed, the parameters, and both; further ahead comes first.

    Those that take no less than others before are left out, and those whose files are more than the disk may hold.
    Updates must follow the backward of their layer, and batches have one shard.
    """
    single = request.shards == 1 and request.update is not UpdateMode.GATHERED
    if request.disk is None or request.strategy != "auto" or not single:
        return
    sizes = part_bytes(request.architecture, request.optimizer)
    for parameters, moments in ((False, True), (True, False), (True, True)):
        in_memory = request.on_disk is False or not request.disk.parameters
        if (moments and not sizes.states) or (parameters and in_memory):
            continue
        least = (parameters + moments * sizes.states) * sizes.whole
        for ahead in AHEAD:
            streaming = Streaming(parameters, moments, ahead)
            one, taken = replace(request, streaming=streaming), sum(resident(sizes, streaming))
            if taken < least and (request.disk.limit is None or file_bytes(one) <= request.disk.limit):
                least = taken
                yield one


def part_bytes(architecture: Architecture, optimizer: str | None) -> PartBytes:
    """Return the bytes of what can be streamed of each layer."""
    states = 0 if optimizer is None else OPTIMIZERS[optimizer].states
    return PartBytes.of([layer.size for layer in architecture.each_layer], architecture.item_bytes, states)


def file_bytes(request: PlanRequest) -> int:
    """Return the bytes of the files of a request but that of the states: the network's own, and what is streamed.

    A network that was made on a disk lies there whether its parameters are streamed or not.
    """
    if request.disk is None:
        return 0
    size, streaming = request.disk.beside, request.streaming
    if request.on_disk or (streaming is not None and streaming.parameters):
        size += network_bytes(request.architecture)
    if streaming is not None and streaming.moments:
        sizes = part_bytes(request.architecture, request.optimizer)
        size += sizes.states * sizes.whole
    return size


def network_bytes(architecture: Architecture) -> int:
    """Return the bytes of the file of a network that lives on a disk: of whole pages."""
    numbers = architecture.parameters + architecture.running
    return -(-numbers * architecture.item_bytes // PAGESIZE) * PAGESIZE


def check_disk_limit(request: PlanRequest) -> None:
    """Refuse a network on a disk whose file alone takes more than all files may. Raises `InputError`."""
    if request.disk is None or request.disk.limit is None or not request.on_disk:
        return
    limit = request.disk.limit
    if file_bytes(request) > limit:
        given, needed = apart(limit, file_bytes(request))
        files = "files of this network and of its best weights take" if request.disk.beside else "file of it takes"
        raise InputError(
            f"this network lives on the disk, and disk_limit={given} is less than the {needed} that the {files}. Give "
            "at least that, or make the network without disk=, in memory."
        )


def in_memory(request: PlanRequest) -> tuple[int, int]:
    """Return the bytes of parameters and of the optimizer's arrays that are in memory at a time."""
    item, streaming = request.architecture.item_bytes, request.streaming
    states = OPTIMIZERS[request.optimizer].states * request.own_parameters if request.optimizer else 0
    parameters, moments = request.architecture.parameters * item, states * item
    if streaming is None:
        return parameters, moments
    some = resident(part_bytes(request.architecture, request.optimizer), streaming)
    return some[0] if streaming.parameters else parameters, some[1] if streaming.moments else moments


Streamed: TypeAlias = tuple[Sequence[Moves], PartBytes]
"""The moves of a pass around the runs of its layers, and the bytes of what is moved."""


def streamed_moves(request: PlanRequest, schedule: Schedule) -> Streamed | None:
    """Return the moves of parameters and moments, None where they stay in memory. schedule: of a pass."""
    if request.streaming is None:
        return None
    return moves(schedule.ops, request.streaming), part_bytes(request.architecture, request.optimizer)


def moved_bytes(request: PlanRequest, streamed: Streamed | None) -> tuple[int, int]:
    """Return the bytes of parameters and moments that a step writes and reads."""
    if streamed is None:
        return 0, 0
    last = traffic(*streamed, updating=request.update.fuses)
    others = traffic(*streamed, updating=False)
    more = request.passes * request.runs - 1
    return last[0] + more * others[0], last[1] + more * others[1]


def move_count(planned: Sequence[Moves]) -> int:
    """Return how many moves a pass has."""
    return sum(len(one.before) + len(one.behind) for one in planned)


def thread_bytes(request: PlanRequest) -> int:
    """Return the bytes of the threads that move what lies on a disk."""
    return THREAD_BYTES if request.on_disk or request.streaming is not None else 0


def record_count(request: PlanRequest, program: Program) -> int:
    """Return how many records the compiled program has: where layers are streamed, one for each run of a layer."""
    if request.streaming is None:
        return len(program.steps)
    return sum(max(sum(1 for _ in runs_of(step.op)), 1) for step in program.steps)
