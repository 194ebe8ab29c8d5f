"""`Trainer`: epochs over a data set, inside a budget that is checked before anything is allocated."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lowmem.common.checks import positive, positive_number
from lowmem.data.compatibility import Data, check_names, checked
from lowmem.data.samples import Samples
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.measure.memory import reset_resident_peak, resident_peak
from lowmem.measure.ram import plan_within, read_ram, warm_up
from lowmem.measure.report import Report
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Adam, Optimizer
from lowmem.planning.choose import plan
from lowmem.planning.cost_model import CostModel
from lowmem.planning.plan import Plan
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.clipping import ClippedBackprop
from lowmem.training.autosave import Autosave
from lowmem.training.journal import Journal
from lowmem.training.learning_rate import LearningRate
from lowmem.training.loop import Epoch, Run, Stepper
from lowmem.training.sample_weights import BatchWeights
from lowmem.training.saved_run import Position, SavedRun, open_run, save_run

EVALUATION_ROWS = 256
"""Samples that are evaluated at a time, through buffers of their own."""

RUN_OBJECTS = 4096
"""Bytes of Python's objects around the steps: what saves, what counts, what tells."""

NON_FINITE = ("stop", "skip")


class Trainer:
    """Trains a network inside a memory budget.

    mlp: the network, updated in place. optimizer: Adam(1e-3) unless given.
    batch_size: samples per step; the last batch of an epoch may have fewer.
    budget: for everything that training allocates, as in `lowmem.plan`: parameters, gradients, optimizer, arena,
        batch buffers. The data set itself is the caller's.
    ram: instead of a budget, a cap for the whole process: bytes, text such as "128MB", or "auto" for what the
        container or machine allows. The interpreter, libraries and data are measured, the rest is the budget.
    strategy, micro_batch, segments, slots, threads, costs, table_bytes: as in `lowmem.plan`; with `ram` the tables of
        planning keep to it by themselves.
    seed: of the order of the samples, and of dropout.
    schedule: a `LearningRate` that sets the optimizer's rate before each step.
    clip_value: cut every gradient to [-clip_value, clip_value], in the pass that updates. clip_norm: cut the norm of
        all gradients together, for which they are gathered, and counted; with clip_twice each step is run twice
        instead, first for the norm alone: twice the compute, and one layer's gradient at a time.
    class_weights: a number for each class, by which the loss of its samples is multiplied in training; or "balanced":
        n / (k n_c) for n_c samples of n in k classes, counted in a pass over the first data and kept from then on.
    non_finite: what to do when the loss is NaN or infinite: "stop", or "skip" the step without an update.

    Raises `BudgetError` if no plan fits.

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
        optimizer: Optimizer | None = None,
        *,
        batch_size: int,
        budget: int | str | None = None,
        ram: int | str | None = None,
        strategy: str = "auto",
        micro_batch: int | None = None,
        segments: int | None = None,
        slots: int | None = None,
        threads: int | None = None,
        costs: CostModel | None = None,
        seed: int = 0,
        schedule: LearningRate | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        clip_twice: bool = False,
        table_bytes: int | None = None,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
    ) -> None:
        if budget is not None and ram is not None:
            raise InputError("give either budget (what training takes) or ram (the whole process), not both.")
        if non_finite not in NON_FINITE:
            raise InputError(f'non_finite is "stop" or "skip"; got {non_finite!r}.')
        self.mlp = mlp
        self.optimizer = Adam() if optimizer is None else optimizer
        self.optimizer.clip_value = _limit("clip_value", clip_value)
        self.batch_size, self.budget, self.ram, self.seed = batch_size, budget, ram, seed
        self.schedule, self.clip_norm, self.non_finite = schedule, _limit("clip_norm", clip_norm), non_finite
        if clip_twice and self.clip_norm is None:
            raise InputError("clip_twice goes with clip_norm; give that, or leave out clip_twice.")
        self.clip_twice = clip_twice
        self._weights = BatchWeights(mlp.architecture, class_weights)
        self.notes: dict[str, Any] = {}
        """What the caller wants to find in a saved run again; JSON."""
        self._options = {
            "strategy": strategy,
            "micro_batch": micro_batch,
            "segments": segments,
            "slots": slots,
            "threads": threads,
        }
        self._costs, self._table_bytes = costs, table_bytes
        self._cap = None if ram is None else read_ram(ram)
        if ram is not None:
            warm_up(mlp.architecture.dtype)
        self._buffers, self._odd = 0, False
        self._stepper: Stepper | None = None
        self._position = Position()
        self._data_marks: dict[str, Any] = {}
        self._standardisation: Standardisation | None = None
        self._resumed: SavedRun | None = None
        self._run: Run | None = None
        self._last_save: str | None = None
        self._process_promise: int | None = None
        self.plan: Plan = self._plan(0, odd=False)

    # Planning and memory ---------------------------------------------------------------------------------------

    def _plan(self, buffers: int, *, odd: bool) -> Plan:
        """Plan with so many bytes of batch buffers, and batches of other sizes or not."""
        options: dict[str, Any] = self._options | {"batch_buffers": buffers, "odd_batches": odd, "costs": self._costs}
        options["gather"] = self.clip_norm is not None and not self.clip_twice
        options["rehearse"] = self.clip_twice
        if self._cap is None:
            options["table_bytes"] = self._table_bytes
            return plan(self.mlp.architecture, self.batch_size, self.budget, self.optimizer, **options)
        held = self.mlp.learned.nbytes if self._stepper is None else self.plan.peak_bytes

        def make(room: int, tables: int) -> Plan:
            return plan(self.mlp.architecture, self.batch_size, room, self.optimizer, **options, table_bytes=tables)

        made, self._process_promise = plan_within(self._cap, held, make)
        return made

    def _attach(self, train: Samples, held_out: Samples | None) -> None:
        """Count the batch buffers, see that the plan still fits, and allocate the step's memory once."""
        architecture = self.mlp.architecture
        buffers = train.batch_bytes(min(self.batch_size, len(train)), architecture)
        # Those of an evaluation are counted in any case: `evaluate` may be called without validation data as well.
        buffers += (held_out or train).batch_bytes(self._evaluation_rows, architecture, shuffled=False)
        buffers += self._evaluation_rows * architecture.widths[-1] * architecture.item_bytes
        buffers += self._weights.bytes_for(self.batch_size) + RUN_OBJECTS
        odd = len(train) % self.batch_size != 0
        if self._stepper is None or buffers > self._buffers or odd > self._odd:
            planned = self._plan(buffers, odd=odd)
            if self._stepper is not None and planned.schedule != self.plan.schedule:
                raise InputError(
                    "these data need larger batch buffers than the data this trainer began with, and the plan would "
                    "change. Begin a new trainer with the larger data."
                )
            self.plan, self._buffers, self._odd = planned, buffers, odd
        if self._stepper is None:
            self._stepper = self._allocate()

    def _allocate(self) -> Stepper:
        """Make the step's memory, with what a saved run holds of it."""
        if self._cap is not None:
            reset_resident_peak()
        if self.clip_norm is None:
            backprop = Backprop(self.mlp, self.plan, self.optimizer, seed=self.seed)
        else:
            backprop = ClippedBackprop(self.mlp, self.plan, self.optimizer, self.clip_norm, seed=self.seed)
        outputs = np.empty((self._evaluation_rows, self.mlp.architecture.widths[-1]), self.mlp.parameters.dtype)
        self._weights.allocate(self.batch_size)
        if self._resumed is not None:
            states = enumerate(backprop.optimizer_state, start=1)
            self._resumed.load({f"optimizer.{number}": array for number, array in states})
            self._resumed = None
        skips = self.non_finite == "skip"
        return Stepper(backprop, self.optimizer, outputs, self._weights, self.schedule, skips)

    @property
    def _evaluation_rows(self) -> int:
        # No more than a pass has, as evaluation works in the memory of one.
        return min(EVALUATION_ROWS, self.plan.micro_batch)

    # Training --------------------------------------------------------------------------------------------------

    def epochs(
        self,
        data: Data,
        count: int | None = None,
        validation: Data | None = None,
        *,
        save_to: str | Path | None = None,
        save_every: int | str | None = None,
        patience: int | None = None,
        journal: str | Path | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Epoch]:
        """Train for `count` epochs, yielding an `Epoch` after each.

        data: (x, y), a `Dataset`, or what `open_data` returns: x (samples, n_0) of any real dtype, cast a batch at a
        time; y labels (samples,) or targets (samples, n_L), by the loss. validation: the same, evaluated after each
        epoch.
        count: an epoch that was begun before (see `resume`) counts as the first. None, after `resume`: as many as the
        saved run had still to do.
        save_to: a file that the run is saved to after each epoch, or every `save_every` steps (an int) or so much
        time ("30s", "10min"), and when the process gets SIGTERM or Ctrl-C: the step is finished and saved, then the
        signal has its usual effect. A save that fails is a warning, and an error only where it was the last one.
        patience: stop after so many epochs without a lower loss (of the validation data, if there are any).
        journal: a file that gets a line of JSON for each epoch and event.
        on_step: called after each step with the batches done and those of the epoch.

        Everything is checked and planned at the call, before the first epoch is asked for. Raises `InputError` for
        data that do not fit the network, `BudgetError` if their buffers do not fit the budget; while running,
        `NonFiniteError` and `SaveError`.
        """
        if count is None and self._position.until <= self._position.epoch:
            raise InputError(
                "epochs must be a positive whole number; only a run that was interrupted knows how many are left."
            )
        patience = None if patience is None else positive("patience", patience)
        until = self._position.until if count is None else self._position.epoch + positive("epochs", count)
        train = checked(data, self.mlp.architecture, "the data", self.class_names)
        if self._data_marks:
            check_names(train, self.class_names, "the data")
        held_out = None
        if validation is not None:
            held_out = checked(validation, self.mlp.architecture, "the validation data", train.class_names)
            check_names(held_out, train.class_names, "the validation data")
        self._remember(train)
        if save_to is not None:
            _check_folder(Path(save_to))
        autosave = Autosave(None if save_to is None else lambda: self.save(save_to), save_every, self._last_save)
        kept = Journal(journal)
        self._attach(train, held_out)
        assert self._stepper is not None
        at, architecture = self._position, self.mlp.architecture
        at.until = until
        batches = train.batches(min(self.batch_size, len(train)), architecture, self.seed)
        if self._weights.waiting:
            self._weights.balance(train.class_counts(architecture.widths[-1]))
        evaluation = None if held_out is None else held_out.batches(self._evaluation_rows, architecture, None)
        kept.write("begin", plan=self.plan.to_dict(), epoch=at.epoch, batch=at.batch, until=until)
        self._run = Run(self._stepper, at, batches, evaluation, autosave, kept, on_step, patience)
        return self._run.epochs()

    def _remember(self, train: Samples) -> None:
        """Note what the data are; in the middle of an epoch they must be those that it began with."""
        standardisation = train.standardisation
        marks: dict[str, Any] = {"fingerprint": train.fingerprint(), "standardised": standardisation is not None}
        if train.shuffle_rows is not None:
            marks["shuffle_rows"] = train.shuffle_rows  # another number would be another order
        if train.class_names is not None:
            marks["class_names"] = list(train.class_names)
        if self._position.batch and self._data_marks and marks != self._data_marks:
            raise InputError(
                f"the run stopped in the middle of an epoch over other data ({self._data_marks['fingerprint']}) than "
                f"these ({marks['fingerprint']}). Go on with the same data."
            )
        self._data_marks = marks
        self._standardisation = standardisation

    # Evaluation and report -------------------------------------------------------------------------------------

    def evaluate(self, data: Data) -> tuple[float, float | None]:
        """Return the mean loss and, where targets are labels, the accuracy on `data`. Changes nothing.

        Raises `InputError` for data that do not fit the network, or before `epochs` has been called.
        """
        if self._stepper is None:
            raise InputError(
                "evaluate works in the memory of the training step, which trainer.epochs(...) makes: call that first. "
                "For the outputs alone, mlp.predict(x) needs no trainer."
            )
        dataset = checked(data, self.mlp.architecture, "the data", self.class_names)
        check_names(dataset, self.class_names, "the data")
        return self._stepper.evaluate(dataset.batches(self._evaluation_rows, self.mlp.architecture, None))

    def report(self) -> Report:
        """Return promise and measurement of the run so far. Raises `InputError` before the first epoch."""
        if self._run is None or self._run.last is None or self._stepper is None:
            raise InputError("there is nothing to report before the first epoch; run trainer.epochs(data, 1) first.")
        return Report(
            plan=self.plan,
            traced_peak=None,
            resident_peak=resident_peak(),
            seconds_per_step=self._run.last.seconds / self._run.last_steps,
            steps=self._position.steps,
            loss=self._run.last.loss,
            accuracy=self._run.last.accuracy,
            process_promise=self._process_promise,
            first_step_peak=self._stepper.first_peak,
            # The batch's buffers come and go with the data.
            arrays=replace(self._stepper.backprop.account(), batch=None),
        )

    # Saved runs ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Save the run to one safetensors file, replacing an earlier one only when the new one is complete.

        Nothing is copied on the way. Raises `SaveError` if the file cannot be written or a parameter is not finite,
        `InputError` before `epochs` has been called: until then there is no more than the network.
        """
        if self._stepper is None:
            raise InputError("there is nothing to save before trainer.epochs(...) has been called; call that first.")
        kept = ("batch_size", "budget", "ram", "seed", "clip_norm", "clip_twice", "non_finite")
        options = self._options | {name: getattr(self, name) for name in kept}
        options |= {
            "clip_value": self.optimizer.clip_value,
            "class_weights": self._weights.of_classes,
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
            # Another machine might choose others, and other bits.
            "micro_batch": self.plan.micro_batch,
            "threads": self.plan.threads,
        }
        save_run(
            path,
            self.mlp,
            self.optimizer,
            self._stepper.backprop.optimizer_state,
            options=options,
            position=self._position,
            data=self._data_marks,
            notes=self.notes,
            standardisation=self._standardisation,
        )
        self._last_save = f"{path} (step {self._position.steps})"
        if self._run is not None:
            self._run.autosave.last = self._last_save

    @classmethod
    def resume(cls, path: str | Path, **changes: Any) -> "Trainer":  # noqa: ANN401 - keywords of the trainer
        """Return a trainer that goes on where a saved run stood, to the same bits as if it had never stopped.

        changes: keywords of the trainer to replace, such as budget, ram or strategy, which change no bits.
        Call `epochs` with the same data. Raises `InputError`, before anything big is allocated, for a file that is
        damaged or of another kind, `BudgetError` if no plan fits.
        """
        return cls.of_run(open_run(path), **changes)

    @classmethod
    def of_run(cls, run: SavedRun, **changes: Any) -> "Trainer":  # noqa: ANN401 - keywords of the trainer
        """Return the trainer of a saved run that was opened already; see `resume`."""
        options = run.options | changes
        for one, other in (("budget", "ram"), ("ram", "budget")):
            if changes.get(one) is not None:
                options[other] = changes.get(other)
        try:
            if isinstance(options["schedule"], dict):
                options["schedule"] = LearningRate(**options["schedule"])
            trainer = cls(run.network(), run.optimizer, **options)
        except (TypeError, KeyError) as problem:
            raise InputError(f"{run.path} holds options that this version does not know: {problem}.") from None
        trainer._position, trainer._data_marks, trainer.notes = run.position, run.data, run.notes
        trainer._resumed, trainer._last_save = run, f"{run.path} (step {run.position.steps})"
        return trainer

    @property
    def epochs_planned(self) -> int:
        """The epoch after which the run ends."""
        return self._position.until

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by class number, where the labels are text; known from the first data on."""
        names = self._data_marks.get("class_names")
        return None if names is None else tuple(names)

    @property
    def last_save(self) -> str | None:
        """Where, and after which step, the run was last saved."""
        return self._last_save

    @property
    def save_problem(self) -> SaveError | None:
        """Why the last save failed, None if it did not."""
        return None if self._run is None else self._run.autosave.problem

    @property
    def between_epochs(self) -> bool:
        """False while steps are run, and after an error among them: then there is nothing to save."""
        return self._run is None or self._run.between_epochs

    @property
    def epochs_done(self) -> int:
        """Whole epochs trained, those before a saved run was resumed included."""
        return self._position.epoch


def _limit(name: str, value: float | None) -> float | None:
    """Return a positive number as a float, or None for no clipping."""
    return None if value is None else positive_number(name, value)


def _check_folder(path: Path) -> None:
    """Refuse a place where no run could be saved, before any work is done."""
    if not path.resolve().parent.is_dir() or path.is_dir():
        raise InputError(f"a run cannot be saved to {str(path)!r}: its folder is not there, or it is one itself.")
