"""`Trainer`: trains a network inside a budget; what cannot fit is refused before anything is allocated."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from lowmem.common.checks import as_path, instance, one_of, positive_number, truth, whole
from lowmem.common.turns import Turn
from lowmem.data.compatibility import Data, both, matching
from lowmem.errors import InputError
from lowmem.measure.expected import Expected
from lowmem.measure.placement import folder_again
from lowmem.measure.report import Report
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.cost_model import CostModel
from lowmem.planning.engines.machine import DiskTier, disk_tier
from lowmem.runtime.backprop import is_taken
from lowmem.runtime.collectives.group import Group, size_of
from lowmem.runtime.collectives.states import saving_states, state_layout
from lowmem.training.arguments import as_optimizer, as_written, schedule_until
from lowmem.training.callbacks.base import Callback
from lowmem.training.callbacks.journal import Journal
from lowmem.training.callbacks.patience import Metric, Stopping
from lowmem.training.callbacks.progress import Progress, Tell
from lowmem.training.callbacks.saves import Saves, read_interval
from lowmem.training.class_weights import ClassWeights
from lowmem.training.learning_rate import LearningRate
from lowmem.training.loop import Epoch, Loop, Stepper
from lowmem.training.run_state import RunState
from lowmem.training.same_bits import advice_for, going_on, replaced
from lowmem.training.sample_weights import BatchWeights
from lowmem.training.saved_run import SavedRun, open_run, save_run
from lowmem.training.saved_run_checks import check_notes
from lowmem.training.signals import INTERRUPT, SIGNALS, HeldSignals
from lowmem.training.step_memory import StepMemory

NON_FINITE = ("stop", "skip")
AT_A_TIME = (
    "Use it between the epochs, or in on_step; save_to= and save_every= save the run while it trains. Make a trainer "
    "for each thread that trains."
)
PLANNING = ("strategy", "micro_batch", "segments", "slots", "threads", "engine", "shards")
"""Keywords of `lowmem.plan` that a saved run keeps."""


class Trainer(RunState):
    """Trains a network inside a memory budget.

    mlp: the network, updated in place.
    optimizer: an optimizer or the name of one; `Adam(1e-3)` if None.
    batch_size: samples of a step; the last batch of an epoch may have fewer.
    budget: for everything that training allocates, as in `lowmem.plan`: parameters, gradients, optimizer, arena,
        batch buffers. The data set itself is the caller's.
    ram: a cap for the whole process, in place of a budget: bytes, text such as "128MB", or "auto" for what the
        container or machine allows. Interpreter, libraries and data are measured; the rest of the cap is the budget.
        With glibc, large blocks that are freed go back to the system at once from the first step on, in the whole
        process.
    strategy, micro_batch, segments, slots, threads, engine, costs, disk, disk_limit, shards: as in `lowmem.plan`.
    group: the ranks that share batches, such as `lowmem.distributed.mpi()`; None for this process alone. All ranks
        call the same methods with the same data. Bits do not depend on how many there are.
    table_bytes: as in `lowmem.plan`; with `ram`, planning's tables are kept within the cap in any case.
    seed: determines the order of the samples, and the masks of dropout.
    schedule: a `LearningRate` that sets the optimizer's rate before each step. A number is a constant rate; "cosine"
        falls from the optimizer's rate to 0 at the end of the epochs that the first call of `epochs` asks for.
    clip_value: every gradient is cut to [-clip_value, clip_value] before its update.
    clip_norm: the norm of all gradients together is cut to this. All gradients are kept for it, and counted.
    clip_twice: with clip_norm, each step runs twice, first for the norm alone. That takes twice the compute, and
        memory for one layer's gradient at a time.
    class_weights: the loss of a sample is multiplied by the weight of its class in training. A number for each class
        in their order; a dictionary of numbers for all classes, by class number or, where labels are text, by name; or
        "balanced", which is n / (k n_c) for a class with n_c of n samples, where k classes occur; the n_c are counted
        in one pass over the first training data and kept from then on.
    expected: what `epochs` will get, an `lowmem.measure.expected.Expected`, so that a refusal counts it too.
    non_finite: what a loss that is NaN or infinite does: "stop" ends the run with an error, "skip" leaves out the
        update of the step.

    Raises `BudgetError` if no plan fits, `InputError` for arguments that make no sense.

    >>> import lowmem as lm
    >>> mlp = lm.MLP(lm.Architecture(widths=(64, 32, 32, 10)))
    >>> trainer = lm.Trainer(mlp, lm.Adam(lr=0.01), batch_size=128, budget="4MiB")
    >>> losses = [epoch.loss for epoch in trainer.epochs(lm.open_data("digits"), 3)]
    >>> losses[2] < losses[0] / 2
    True
    >>> trainer.save("run.safetensors")
    >>> lm.Trainer.resume("run.safetensors").epochs_done
    3
    """

    def __init__(
        self,
        mlp: MLP,
        optimizer: Optimizer | str | None = None,
        *,
        batch_size: int,
        budget: int | str | None = None,
        ram: int | str | None = None,
        strategy: str = "auto",
        micro_batch: int | None = None,
        segments: int | None = None,
        slots: int | None = None,
        threads: int | None = None,
        engine: str | None = None,
        shards: int = 1,
        group: Group | None = None,
        costs: CostModel | None = None,
        seed: int = 0,
        schedule: LearningRate | float | str | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        clip_twice: bool = False,
        table_bytes: int | None = None,
        class_weights: ClassWeights | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
        disk: str | PathLike[str] | DiskTier | None = None,
        disk_limit: int | str | None = None,
        expected: Expected | None = None,
    ) -> None:
        super().__init__()
        if budget is not None and ram is not None:
            raise InputError("give either budget (what training takes) or ram (the whole process), not both.")
        one_of("value of non_finite", non_finite, NON_FINITE)
        self.mlp = instance("mlp", mlp, MLP, "a network, such as lowmem.MLP(architecture)")
        self.optimizer = as_optimizer(optimizer)
        if clip_value is not None or is_taken(self.optimizer):
            self.clip_value = clip_value
        self.batch_size, self.budget, self.ram, self.seed = batch_size, budget, ram, whole("seed", seed)
        self.schedule = schedule
        self.non_finite = non_finite
        self.clip_norm = None if clip_norm is None else positive_number("clip_norm", clip_norm)
        self.clip_twice = truth("clip_twice", clip_twice)
        if self.clip_twice and self.clip_norm is None:
            raise InputError("clip_twice goes with clip_norm; give that, or leave out clip_twice.")
        planning = (strategy, micro_batch, segments, slots, threads, engine, shards)
        self._options: dict[str, Any] = dict(zip(PLANNING, planning, strict=True))
        self._group = None if size_of(group) == 1 else group
        tier = disk_tier(disk, disk_limit)
        self._weights = BatchWeights(mlp.architecture, class_weights)
        self._memory = StepMemory(
            mlp,
            self.optimizer,
            self._weights,
            batch_size=batch_size,
            budget=budget,
            ram=ram,
            clip_norm=self.clip_norm,
            clip_twice=self.clip_twice,
            options=self._options | {"costs": costs, "table_bytes": table_bytes},
            group=self._group,
            disk=tier,
            expected=expected,
        )
        if tier is not None:  # runs without a disk are saved as ever
            self._options |= {"disk": tier.folder, "disk_limit": tier.limit}
        self._turn = Turn("this trainer trains", AT_A_TIME, again=True)

    # Training --------------------------------------------------------------------------------------------------

    def epochs(
        self,
        data: Data,
        count: int | None = None,
        validation: Data | None = None,
        *,
        save_to: str | Path | None = None,
        until: int | None = None,
        save_every: int | str | None = None,
        patience: int | None = None,
        patience_metric: Metric = "loss",
        min_improvement: float = 0.0,
        journal: str | Path | None = None,
        on_step: Tell | None = None,
        on_evaluation: Tell | None = None,
    ) -> Iterator[Epoch]:
        """Train for `count` more epochs, or until the run has `until` epochs in all, yielding an `Epoch` after each.

        data: (x, y), a `Dataset`, or what `open_data` returns. x has shape (samples, n_0) and any real dtype; it is
            cast a batch at a time. y are labels (samples,) or targets (samples, n_L), by the loss.
        count: how many epochs to train now. After `resume`, an epoch that was begun before counts as the first.
        until: epochs of the run in all, those done included, in place of `count`. If both are None, a resumed run
            trains what it had still to do.
        validation: data in the same forms, evaluated after each epoch.
        save_to: file to which the run is saved after each epoch, and when SIGTERM, SIGHUP or Ctrl-C ends it: the step
            at hand is finished and saved before the signal has its usual effect. A save that fails is a warning, and
            an error only if it is the last one.
        save_every: when to save instead of after each epoch: a number of steps, or a time such as "10min".
        patience: the run ends after this many epochs in a row without an improvement. At its end, early or not, the
            network has the weights of its best epoch, which a second copy of them keeps; saved runs hold both, and go
            on with the last ones.
        patience_metric: "loss" of the validation data, or of the training data where there are none; or "accuracy".
        min_improvement: what an epoch must gain on the last improvement to count as one.
        journal: file that gets a line of JSON for each epoch and event.
        on_step: called after each step with the batches done in this epoch and the batches of an epoch.
        on_evaluation: called after each batch of the validation data, with those done and how many there are.

        Everything is checked and planned at the call, before the first epoch is asked for. Raises `InputError` for
        data that do not fit the network and for a learning rate that has fallen to 0, `BudgetError` if the data's
        buffers do not fit the budget; while running, `NonFiniteError` and `SaveError`.
        """
        self._turn.check_outermost()
        with self._turn:  # refuses a trainer that trains in another thread
            self._check_begin()
        until = self._end_of(count, until)
        stopping = Stopping(patience, patience_metric, min_improvement)
        known = self.mlp.architecture, self.class_names, self.columns
        train, held_out = both(data, validation, *known, begun=bool(self._data_marks))
        stopping.check_data(validated=held_out is not None, labels=self.mlp.architecture.loss_facts.labels)
        marks = self._marks_of(train)
        self._weights.name(train.class_names)
        read_interval(save_every)
        if save_every is not None and save_to is None:
            raise InputError("save_every= goes with save_to=, the file that the run is saved to; give that too.")
        callbacks: list[Callback] = [Progress(on_step, on_evaluation)]
        if save_to is not None:
            check_notes(self.notes)
        journal = as_written(save_to, journal, train, held_out)
        if journal is not None and self.speaks:
            callbacks.append(Journal(journal))
        self._saves = None if save_to is None else Saves(lambda: self.save(save_to), save_every)
        if self._saves is not None:
            callbacks.append(self._saves)
        with advice_for(resumed=self._resumed is not None):
            self._memory.count(Expected(train, held_out, patience is not None))
        rows = min(self.batch_size, len(train))
        schedule = schedule_until(self.schedule, self.optimizer, self._position, until, -(-len(train) // rows))
        self._remember(train, held_out, marks)
        patient = self._patience(stopping)
        if self._loop is not None:
            self._loop.replace()
        self._loop, stepper = None, self._allocated()  # the buffers of earlier data go before others come
        self.schedule = schedule
        self._agree(until)
        self._position.until = until
        batches = train.batches(rows, self.mlp.architecture, self.seed, self._memory.share)
        if self._weights.waiting:
            self._weights.balance(train.class_counts(self.mlp.architecture.widths[-1]))
        hear = patient, tuple(callbacks), HeldSignals(INTERRUPT if save_to is None else SIGNALS), self._turn
        self._loop = Loop(stepper, self._position, batches, self._memory.validation(held_out), *hear)
        self._loop.last_save = self._last_save
        self._loop.begin()
        return self._loop.epochs()

    def _allocated(self) -> Stepper:
        """Return what makes a step; its memory is allocated at the first call, with what a saved run holds of it."""
        if self._stepper is None:
            stepper = self._memory.allocate(self.seed, skips=self.non_finite == "skip")
            backprop = stepper.backprop
            backprop.claim()
            if self._resumed is None:
                backprop.check_moments()
            self._stepper = stepper
            self.clip_value = self.clip_value  # may have waited until the optimizer was this run's
            if self._resumed is not None:
                states = backprop.buffers.paged_states or backprop.optimizer_state
                self._resumed.load_states(states, state_layout(self.plan, backprop.buffers))
                self._resumed.load_last(self.mlp.streamed(self.mlp.learned))
                backprop.goes_on, self._resumed = True, None
        return self._stepper

    # Evaluation and report -------------------------------------------------------------------------------------

    def evaluate(self, data: Data) -> tuple[float, float | None]:
        """Return the mean loss and, where targets are labels, the accuracy on `data`.

        Changes nothing. Data that need larger buffers than were counted are evaluated in smaller batches. Raises
        `InputError` for data that do not fit the network, before `epochs` was called, and after a step broken off.
        """
        if self._stepper is None:
            raise InputError("evaluate works in memory of trainer.epochs(...): call that first, or mlp.predict(x).")
        samples = matching(data, self.mlp.architecture, "the data", self.class_names, self.columns)
        with self._turn:
            self._check_whole("evaluated")
            return self._stepper.evaluate(self._memory.evaluation(samples))

    def report(self) -> Report:
        """Return promise and measurement of the run so far. Raises `InputError` before the first epoch is over."""
        if self._loop is None:
            raise InputError("there is nothing to report before the first epoch; run trainer.epochs(data, 1) first.")
        return self._loop.report(self._memory.process_promise)

    # Saved runs ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Save the run to one safetensors file, replacing an earlier one only when the new one is complete.

        With patience, the file has the weights of the best epoch, and those of the last step beside them, with which
        a resumed run goes on. No array is copied for it.

        Raises `SaveError` if the file cannot be written or a parameter is not finite;
        `InputError` before `epochs` has been called, as until then there is nothing but the network, after a step that
        was broken off, as its bits are lost, and while another thread trains.
        """
        path = as_path("path", path)
        if self._stepper is None:
            raise InputError("there is nothing to save before trainer.epochs(...) has been called; call that first.")
        self._check_whole("saved")
        self._check_save(path)
        self._stepper.backprop.check_settings()
        aside = self._aside
        with self._turn, saving_states(self._stepper.backprop) as states:
            if states is not None:
                save_run(
                    path,
                    self.mlp if aside is None else aside.best,
                    self.optimizer,
                    states,
                    options=self._settings(),
                    position=self._position,
                    data=self._data_marks,
                    notes=self.notes,
                    standardisation=self._standardisation,
                    last=None if aside is None else aside.last.streamed(aside.last.learned),
                )
        self._note_save(path)

    @classmethod
    def resume(cls, path: str | Path, **changes: Any) -> "Trainer":  # noqa: ANN401 - keywords of the trainer
        """Return a trainer that goes on where a saved run stood, to the same bits as if it had never stopped.

        changes: keywords of the trainer to replace. Some, such as budget, ram and strategy, change no bits. With disk,
            parameters lie there if they did before, or if the budget cannot hold them.
        Call `epochs` with the same data.

        Raises `InputError`, before anything big is allocated, for a file that is damaged or of another kind,
        `BudgetError` if no plan fits.
        """
        return cls.of_run(open_run(path), **changes)

    @classmethod
    def of_run(cls, run: SavedRun, **changes: Any) -> "Trainer":  # noqa: ANN401 - keywords of the trainer
        """Return the trainer of a saved run that was opened already; see `resume`."""
        options = replaced(run, changes, cls)
        for one, other in (("budget", "ram"), ("ram", "budget")):
            if changes.get(one) is not None:
                options[other] = changes.get(other)
        with going_on(run):
            if isinstance(options["schedule"], dict):
                options["schedule"] = LearningRate(**options["schedule"])
            folder = folder_again(run.architecture, run.optimizer, options)
            trainer = cls(run.network(folder), run.optimizer, **options)
        trainer._position, trainer._data_marks, trainer.notes = run.position, run.data, run.notes
        trainer._resumed, trainer._last_save = run, f"{run.path} (step {run.position.steps})"
        return trainer
