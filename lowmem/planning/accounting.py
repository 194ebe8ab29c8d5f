"""From a schedule to a plan: its values are placed, and every byte and FLOP is counted. No NumPy."""

from typing import Any

from lowmem.network.layers.base import STATISTICS
from lowmem.network.specs import CHUNK
from lowmem.network.tiles import INDEX_BYTES, tile_rows
from lowmem.nn.optimizers import OPTIMIZERS
from lowmem.planning import overhead
from lowmem.planning.packing import pack
from lowmem.planning.plan import Plan
from lowmem.planning.request import PlanRequest, UpdateMode
from lowmem.schedule import Schedule, lower, simulate


def plan_of(request: PlanRequest, schedule: Schedule, *, strategy: str | None = None) -> Plan:
    """Return the plan that carries out a schedule, whatever it takes.

    schedule: of the request's chain; updates are put in where they are missing.
    strategy: what the plan calls it, if not by the name of the schedule's planner.

    Raises `ScheduleError` if the schedule does not reverse the chain.
    """
    schedule = lower(request.chain, schedule)
    trace = simulate(request.chain, schedule)
    program = pack(request.chain, schedule, at_best=trace.peak_bytes)
    store_all_bytes, store_all_flops = request.store_all
    architecture, item = request.architecture, request.architecture.item_bytes
    states = OPTIMIZERS[request.optimizer].states * architecture.parameters if request.optimizer else 0
    scratch = _optimizer_scratch(request)
    seconds = None
    if request.costs is not None:
        seconds = whole_batch(request, simulate(request.timed_chain, schedule).cost)
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
        parameter_bytes=architecture.parameters * item,
        gradient_bytes=_gradients(request) * item,
        optimizer_bytes=(states + scratch) * item,
        optimizer_scratch=scratch,
        arena_bytes=program.arena_bytes,
        batch_bytes=request.batch_buffers + _row_constants(request),
        overhead_bytes=overhead.overhead_bytes(overhead.counts(architecture, program, **object_counts(request))),
        statistics_bytes=_statistics(request) * item,
        store_all_bytes=store_all_bytes,
        store_all_flops=store_all_flops,
        forward_runs=trace.forward_runs * request.passes * request.runs,
        flops=_whole_flops(request, trace.flops),
        lanes=request.lanes,
        seconds=seconds,
    )


def whole_batch(request: PlanRequest, one_pass: float) -> float:
    """Return the cost of a whole batch from that of a pass: linear in rows, and the sums of gradients between."""
    if request.costs is None:
        return _whole_flops(request, one_pass)
    sums = (request.passes - 1) * request.architecture.parameters * request.costs.accumulate
    return (one_pass * request.batch_size / request.rows + sums) * request.runs


def least_cost(request: PlanRequest) -> float:
    """Return what a whole batch costs at least: every forward and backward once."""
    return whole_batch(request, sum(stage.forward + stage.backward for stage in request.timed_chain.stages))


def least_overhead(request: PlanRequest) -> int:
    """Return the bytes of Python's objects that any plan for the request takes, whatever its schedule."""
    return overhead.least_overhead(request.architecture, **object_counts(request))


def object_counts(request: PlanRequest) -> dict[str, Any]:
    """Return how often a program of this request is bound, for the account of Python's objects."""
    kinds = min(request.passes, 3)  # the first pass, all passes between, and the last one are bound apart
    sizes = 2 if request.batch_size % request.rows else 1
    odd = 2 if request.odd_batches else 1
    return {
        "rows": request.rows,
        "sizes": sizes * odd,
        "passes": kinds * odd,
        "states": None if request.optimizer is None else OPTIMIZERS[request.optimizer].states,
    }


def _gradients(request: PlanRequest) -> int:
    """Return the numbers in the buffers of gradients."""
    buffers = request.gradient_buffers
    return request.architecture.parameters * buffers.all_layers + _largest_layer(request) * buffers.one_layer


def _largest_layer(request: PlanRequest) -> int:
    """Return the number of parameters of the largest layer."""
    return max(layer.size for layer in request.architecture.each_layer)


def _optimizer_scratch(request: PlanRequest) -> int:
    """Return the numbers that the optimizer works in."""
    return min(CHUNK, _largest_layer(request)) * OPTIMIZERS[request.optimizer].scratch if request.optimizer else 0


def _statistics(request: PlanRequest) -> int:
    """Return the numbers that norms over the batch keep: running statistics, and those of a step.

    Clipping by norm keeps the running statistics of the step before as well, as it may have to take a step back.
    """
    architecture = request.architecture
    if architecture.couples is None:
        return 0
    of_a_step = sum(layer.entering for layer in architecture.each_layer if layer.couples)
    clips = request.update in (UpdateMode.GATHERED, UpdateMode.TWO_RUNS)
    return architecture.running * (1 + clips) + STATISTICS * of_a_step


def _row_constants(request: PlanRequest) -> int:
    """Return the bytes of what is constant for each row.

    A vector of ones sums up δ over a batch; the offset of each row in the outputs, plus the label, finds an element.
    """
    labels = tile_rows(request.rows) * INDEX_BYTES if request.architecture.loss_facts.labels else 0
    return request.rows * request.architecture.item_bytes + labels


def _whole_flops(request: PlanRequest, one_pass: float) -> int:
    """Return the FLOPs of a whole batch; those of a pass are a multiple of its rows."""
    sums = (request.passes - 1) * request.architecture.parameters
    return (int(one_pass) * request.batch_size // request.rows + sums) * request.runs
