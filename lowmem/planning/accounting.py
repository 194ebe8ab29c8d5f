"""From a schedule to a plan: its values are placed, and every byte and FLOP is counted. No NumPy."""

from math import inf
from typing import NamedTuple

from lowmem.common.exact_sums import PARTIALS
from lowmem.errors import InputError
from lowmem.network.layers.base import STATISTICS
from lowmem.network.specs import CHUNK
from lowmem.network.tiles import INDEX_BYTES, tile_rows
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning.engines import native_memory
from lowmem.planning.engines.native_memory import OP_BYTES
from lowmem.planning.packing import Effort, Program, Step, pack
from lowmem.planning.packing.relays import relayed
from lowmem.planning.plan import Plan
from lowmem.planning.request import PlanRequest, UpdateMode
from lowmem.planning.streamed import (
    file_bytes,
    in_memory,
    move_count,
    moved_bytes,
    record_count,
    streamed_moves,
    thread_bytes,
)
from lowmem.schedule import Load, Schedule, Store, Trace, lower, simulate
from lowmem.schedule.disk.transfers import AT_ONCE
from lowmem.schedule.lowering import TRAVELLING

NEARLY = 1.01
"""Ratio of the arena to the simulated peak up to which no other placements are looked for."""

FEW_LAYERS = 24
"""Layers up to which all placements are tried, also those that take long."""


def plan_of(request: PlanRequest, schedule: Schedule, *, strategy: str | None = None, relays: bool = False) -> Plan:
    """Return the plan that carries out a schedule, whatever it takes.

    schedule: of the request's chain; updates are put in where they are missing.
    strategy: what the plan calls it, if not by the name of the schedule's planner.
    relays: sweeps may be done in two parts where that takes fewer bytes.

    Raises `ScheduleError` if the schedule does not reverse the chain, `InputError` if it needs a disk and has none.
    """
    schedule, trace, program = _placed(request, lower(request.chain, schedule), relays)
    disk = request.disk
    if program.disk_bytes and disk is None:
        raise InputError("this schedule sends states to a disk; say which with disk=, a folder.")
    store_all_bytes, store_all_flops = request.store_all
    architecture, item = request.architecture, request.architecture.item_bytes
    streamed = streamed_moves(request, schedule)
    count = 0 if streamed is None else move_count(streamed[0])
    engine = (_native if request.engine == "native" else _numpy)(request, program, count)
    moved = request.passes * request.runs
    parameters, moments = in_memory(request)
    written, read = moved_bytes(request, streamed)
    return Plan(
        architecture=architecture,
        batch_size=request.batch_size,
        micro_batch=request.rows,
        strategy=strategy or schedule.planner,
        optimizer=request.optimizer,
        update=request.update,
        gradient_buffers=request.gradient_buffers,
        schedule=schedule,
        program=program,
        parameter_bytes=parameters,
        gradient_bytes=engine.gradients * item,
        optimizer_bytes=moments + engine.optimizer_scratch * item,
        optimizer_scratch=engine.optimizer_scratch,
        arena_bytes=program.arena_bytes,
        batch_bytes=request.batch_buffers + engine.batch_bytes,
        overhead_bytes=engine.overhead_bytes + thread_bytes(request),
        statistics_bytes=engine.statistics * item,
        store_all_bytes=store_all_bytes,
        store_all_flops=store_all_flops,
        forward_runs=trace.forward_runs * request.passes * request.runs,
        flops=_whole_flops(request, trace.flops),
        engine=str(request.engine),
        lanes=request.lanes,
        threads=request.threads,
        seconds=predicted(request, schedule),
        shards=request.shards,
        shard_slots=request.shard_slots,
        ranks=request.ranks,
        received=request.received,
        disk=None if disk is None else disk.folder,
        disk_bytes=program.disk_bytes + file_bytes(request),
        disk_written=trace.written * moved + written,
        disk_read=trace.read * moved + read,
        streaming=request.streaming,
        alignment=request.alignment,
        on_disk=bool(request.on_disk) or (request.streaming is not None and request.streaming.parameters),
    )


def predicted(request: PlanRequest, schedule: Schedule) -> float | None:
    """Return the seconds that a step takes with a schedule, without the update; None without a cost model."""
    if request.costs is None:
        return None
    rates, streamed = AT_ONCE if request.disk is None else request.disk.rates, streamed_moves(request, schedule)
    return whole_batch(request, simulate(request.timed_chain, schedule, rates, streamed).seconds)


def _placed(request: PlanRequest, schedule: Schedule, relays: bool) -> tuple[Schedule, Trace, Program]:
    """Return the schedule, as it is or with relays, with what it takes and where everything lies."""
    chain = request.chain
    trace = simulate(chain, schedule)
    # Where every layer runs once, all engines store the same, to the byte.
    counted = request.engine == "numpy" and trace.forward_runs > chain.length
    beside = request.objects.bytes if counted else None

    def taken(program: Program) -> int:
        return program.arena_bytes + (OP_BYTES * len(program.steps) if beside is None else beside(program))

    if not relays:
        return schedule, trace, pack(chain, schedule, at_best=trace.peak_bytes, beside=beside)
    program = pack(chain, schedule, at_best=trace.peak_bytes, beside=beside, effort=Effort.STACKS)
    if program.arena_bytes <= trace.peak_bytes:
        return schedule, trace, program
    found = [(schedule, trace, program)]
    parted = relayed(chain, schedule, trace.peak_bytes)
    if parted.ops != schedule.ops:
        other = simulate(chain, parted)
        packed = pack(chain, parted, at_best=other.peak_bytes, beside=beside, effort=Effort.STACKS)
        found.append((parted, other, packed))
    best = min(found, key=lambda placed: taken(placed[2]))
    if best[2].arena_bytes > NEARLY * trace.peak_bytes:
        effort = Effort.ALL if chain.length <= FEW_LAYERS else Effort.QUICK
        packed = pack(chain, schedule, at_best=trace.peak_bytes, beside=beside, effort=effort)
        best = min(best, (schedule, trace, packed), key=lambda placed: taken(placed[2]))
    return best


def floor_bytes(request: PlanRequest, schedule: Schedule) -> int:
    """Return bytes that a schedule takes at least with NumPy's engine, beside what every plan of a request takes.

    They are the simulated peak, and the objects of a program in which whatever can lie in one place does.
    """
    lowered = lower(request.chain, schedule)
    peak = simulate(request.chain, lowered).peak_bytes
    program = Program(tuple(Step(op, 0, 0, 0) for op in lowered.ops), 0)
    return peak + request.objects.bytes(program) - least_overhead(request)


def whole_batch(request: PlanRequest, one_pass: float) -> float:
    """Return the cost of a whole batch from that of a pass: linear in rows, and the sums of gradients between."""
    if one_pass == inf:
        return inf
    if request.costs is None:
        return _whole_flops(request, one_pass)
    sums = (request.passes - 1) * request.architecture.parameters * request.costs.accumulate
    return (one_pass * request.batch_size / request.rows + sums) * request.runs


def least_cost(request: PlanRequest) -> float:
    """Return what a whole batch costs at least: every forward and backward once."""
    return whole_batch(request, sum(stage.forward + stage.backward for stage in request.timed_chain.stages))


def least_overhead(request: PlanRequest) -> int:
    """Return the bytes of Python's objects that any plan for the request takes, whatever its schedule."""
    architecture, threads = request.architecture, thread_bytes(request)
    if request.engine == "native":
        return threads + native_memory.program_bytes(architecture.layers, 0, request.lanes, sharded=request.shards > 1)
    return threads + request.objects.least


class EngineMemory(NamedTuple):
    """What an engine takes beside arena, parameters and the optimizer's arrays.

    gradients, optimizer_scratch, statistics: numbers. batch_bytes: constants and vectors for the rows of a batch.
    overhead_bytes: the bound program, and Python's objects around it.
    """

    gradients: int
    optimizer_scratch: int
    batch_bytes: int
    overhead_bytes: int
    statistics: int


def _numpy(request: PlanRequest, program: Program, moves: int) -> EngineMemory:
    """Return what the NumPy engine takes. moves: of parameters and moments in a pass."""
    architecture, buffers = request.architecture, request.gradient_buffers
    largest = max(layer.size for layer in set(architecture.each_layer))
    scratch = OPTIMIZERS[request.optimizer].scratch if request.optimizer else 0
    # The ones that sum up δ over a batch, and the row starts that labels are added to.
    labels = tile_rows(request.rows) * INDEX_BYTES if architecture.loss_facts.labels else 0
    of_a_step = sum(STATISTICS * layer.entering for layer in architecture.each_layer if layer.couples)
    return EngineMemory(
        gradients=_gradients(request, largest * buffers.one_layer),
        optimizer_scratch=min(CHUNK, largest) * scratch,
        batch_bytes=request.rows * architecture.item_bytes + labels,
        overhead_bytes=request.objects.bytes(program)
        + (native_memory.DISK_BYTES if program.disk_bytes else 0)
        + (native_memory.DISK_BYTES if moves else 0)
        + _norm_bytes(request),
        statistics=_statistics(request, of_a_step),
    )


def _native(request: PlanRequest, program: Program, moves: int) -> EngineMemory:
    """Return what the compiled engine takes. moves: of parameters and moments in a pass."""
    architecture, buffers, lanes = request.architecture, request.gradient_buffers, request.lanes
    fused = lanes * native_memory.lane_gradient_numbers(architecture, lanes)
    if request.shards > 1:
        fused = max(layer.size for layer in set(architecture.each_layer))
    streams = request.streaming is not None and request.streaming.parameters
    layered = 2 * native_memory.layered_numbers(architecture, request.rows, lanes) if streams else 0
    return EngineMemory(
        gradients=_gradients(request, fused * buffers.one_layer),
        optimizer_scratch=0,
        batch_bytes=(native_memory.vector_numbers(architecture, lanes) + layered) * architecture.item_bytes,
        overhead_bytes=native_memory.program_bytes(
            architecture.layers, record_count(request, program), lanes, sharded=request.shards > 1
        )
        + native_memory.disk_objects_bytes(sum(isinstance(step.op, Store | Load) for step in program.steps))
        + native_memory.stream_objects_bytes(moves)
        + _norm_bytes(request),
        statistics=_statistics(request, native_memory.statistics_numbers(architecture)),
    )


def _gradients(request: PlanRequest, of_one_layer: int) -> int:
    """Return the numbers in the buffers of gradients; of_one_layer: in the one that all layers use in turn."""
    all_layers = max(int(request.gradient_buffers.all_layers), request.shard_slots)
    travelling = TRAVELLING if request.ranks > 1 else 1
    travel = travelling * (of_one_layer + request.received)
    return request.architecture.parameters * all_layers + _kept_parts(request) + travel


def _kept_parts(request: PlanRequest) -> int:
    """Return the most numbers of gradients that a rank keeps until their norm is known: its parts of the sums."""
    return request.own_parameters if request.ranks > 1 and request.update is UpdateMode.GATHERED else 0


def _norm_bytes(request: PlanRequest) -> int:
    """Return the bytes of what ranks tell each other of the norm of their gradients."""
    return 8 * PARTIALS * (request.ranks + 1) if _kept_parts(request) else 0


def _statistics(request: PlanRequest, of_a_step: int) -> int:
    """Return the numbers that norms over the batch keep: running statistics, and those of a step.

    Clipping by norm keeps the running statistics of the step before as well, as it may have to take a step back.
    """
    if request.architecture.couples is None:
        return 0
    clips = request.update in (UpdateMode.GATHERED, UpdateMode.TWO_RUNS)
    return request.architecture.running * (1 + clips) + of_a_step


def _whole_flops(request: PlanRequest, one_pass: float) -> int:
    """Return the FLOPs of a whole batch; those of a pass are a multiple of its rows."""
    sums = (request.passes - 1) * request.architecture.parameters
    return (int(one_pass) * request.batch_size // request.rows + sums) * request.runs
