"""The loop of training: epochs of steps over the batches, and callbacks for what happens beside the steps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from lowmem.common.turns import Turn
from lowmem.data.samples import Batch, Batches
from lowmem.errors import DiskError, InputError, NonFiniteError, Origin, StepNumber
from lowmem.measure.memory import resident_peak
from lowmem.measure.provenance import here_and_now
from lowmem.measure.report import RankRecord, Report
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.plan import Plan
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.inference import evaluate
from lowmem.runtime.nonfinite import where_it_began
from lowmem.training.callbacks.base import Callback
from lowmem.training.callbacks.counted import Counted
from lowmem.training.callbacks.patience import Patience
from lowmem.training.learning_rate import LearningRate
from lowmem.training.position import Position
from lowmem.training.sample_weights import BatchWeights
from lowmem.training.signals import HeldSignals

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the data.

    number: of the epoch in the run, counted from 1.
    loss: mean over the samples; each sample's loss is taken before the update of its step.
    samples: how many samples the steps learned from; those of skipped steps do not count.
    seconds: time of the steps, without evaluation and saves.
    validation_seconds: time of the evaluation after them.
    validation_loss: mean loss on the validation data after the epoch; None without validation data.
    accuracy: share of the validation data whose class is right; None where the targets are no labels.
    skipped: steps without an update, because their loss was not finite.
    learning_rate: rate of the last step.
    peak_bytes: the most memory that the whole process has held until now.
    """

    number: int
    loss: float
    samples: int
    seconds: float
    validation_loss: float | None = None
    accuracy: float | None = None
    skipped: int = 0
    learning_rate: float = 0.0
    peak_bytes: int = 0
    validation_seconds: float = 0.0

    @property
    def samples_per_second(self) -> float:
        """Samples that the steps learned from in a second of the epoch, its evaluation included."""
        seconds = self.seconds + self.validation_seconds
        return self.samples / seconds if seconds else 0.0


@dataclass(slots=True)
class Stepper:
    """Makes one step at a time: a network's bound plan, and what changes from batch to batch.

    outputs: memory for the outputs of a batch of evaluation.
    weights: multiply the losses of a batch's samples.
    skips: True if a loss that is not finite costs its step alone, and not the run.
    schedule: sets the optimizer's learning rate before each step; None leaves the rate alone.
    first_peak: the most memory that the process had held after the first step; None before it.
    torn: True while a step runs, and after one that was broken off: then parameters may be half updated.
    """

    backprop: Backprop
    optimizer: Optimizer
    outputs: Array
    weights: BatchWeights
    skips: bool
    schedule: LearningRate | None = None
    first_peak: int | None = None
    torn: bool = False

    def step(self, at: Position, batch: Batch) -> Origin | None:
        """Run one step and move the position on.

        Returns None for a finite loss, and for a skipped step where its numbers stopped being finite.
        Raises `NonFiniteError` if steps are not to be skipped, or if the parameters are not finite, as then no later
        step could succeed.
        """
        if self.schedule is not None:
            self.optimizer.lr = self.schedule.at(at.steps)
        origin, self.torn = None, True
        try:
            step = self.backprop.step(batch.x, batch.y, self.weights.of(batch), whole=batch.whole)
            at.loss += step[0] * batch.samples
            at.samples += batch.samples
        except NonFiniteError as error:
            mlp = self.backprop.mlp
            origin = self._origin(batch)
            self.torn = False  # parameters are those before the step
            if not self.skips or mlp.first_not_finite() is not None:
                error.step, error.origin = StepNumber(at.steps + 1, at.epoch + 1, at.batch + 1), origin
                raise
            at.skipped += 1
        except (InputError, DiskError) as error:  # a batch that is refused changes nothing
            self.torn = isinstance(error, DiskError) and error.torn is not False
            raise
        at.batch += 1
        at.steps += 1
        self.torn = False
        self.first_peak = self.first_peak or resident_peak()
        return origin

    def _origin(self, batch: Batch) -> Origin:
        """Return where numbers stop being finite, on the first rank where they do."""
        mlp, group = self.backprop.mlp, self.backprop.group
        origin = where_it_began(mlp, batch.x) if len(batch) else Origin()
        if group is None:
            return origin
        return next((one for one in group.agree(origin) if one.layer is not None), origin)

    def evaluate(self, batches: Batches) -> tuple[float, float | None]:
        """Return loss and accuracy over one pass, in the memory of the training step."""
        labels = self.backprop.mlp.architecture.loss_facts.labels
        ways = self.backprop.forward, self.backprop.loss
        return evaluate(batches, self.outputs, *ways, labels=labels, group=self.backprop.group)


@dataclass(slots=True)
class Loop:
    """Runs the epochs that are left from a position on.

    at: the position, moved on with every step.
    train, held_out: the batches to train on, and those to evaluate after each epoch.
    patience: counts epochs without an improvement, may end the run, and keeps the best weights.
    callbacks: hear of every event, see `Callback`.
    signals: wait until the step at hand is finished.
    turn: held while an epoch runs, so that no other thread uses what it works with.
    last_save: file and step of the last good save of the run; None if there is none.
    between_epochs: False while steps are run, and after an error among them.
    last: the last epoch done. last_steps: the steps of that epoch.
    save_due: says whether the time for a save has come; a callback may set it. due: whether it had come at the last
        step. Of several ranks the first one's clock counts. stopping: with several ranks, the signal that one of them
        had noted before the last step, which has told all of it.
    ranks: what each of several ranks took in the last epoch. waited: seconds that this one had waited before it.
    replaced: whether another loop goes on with the run.
    """

    stepper: Stepper
    at: Position
    train: Batches
    held_out: Batches | None
    patience: Patience
    callbacks: tuple[Callback, ...]
    signals: HeldSignals
    turn: Turn
    last_save: str | None = None
    between_epochs: bool = True
    last: Epoch | None = None
    last_steps: int = 0
    save_due: Callable[[], bool] = lambda: False
    due: bool = False
    stopping: int | None = None
    ranks: Sequence[RankRecord] = ()
    waited: float = 0.0
    replaced: bool = False

    @property
    def plan(self) -> Plan:
        """The plan of a step."""
        return self.stepper.backprop.plan

    def begin(self) -> None:
        """Tell the callbacks that all is ready."""
        for callback in self.callbacks:
            callback.on_begin(self)

    def epochs(self) -> Iterator[Epoch]:
        """Yield each epoch when it is over. Raises `NonFiniteError`, and `SaveError` if the last save failed."""
        while not self.replaced and self.at.epoch < self.at.until:
            self.turn.check_outermost()
            with self.turn, self.signals.held():
                finished, self.between_epochs = None, False
                if self._go_through():
                    finished = self._conclude()
                self._agree_on_signals()
                if self.signals.noted is not None:
                    self._stop(self.signals.noted)
            # A signal that was held has been raised again; if the caller lives on, so does the run.
            self.between_epochs = True
            if finished is not None:
                yield finished
        if self.replaced:
            raise InputError(
                "trainer.epochs was called anew since these epochs began, and the run goes on with what that call "
                "returned. Go through that."
            )
        self._end()

    def replace(self) -> None:
        """Give up the run, and the memory of the batches: another loop goes on with it."""
        self.replaced = True
        del self.train, self.held_out

    def report(self, process_promise: int | None) -> Report:
        """Return promise and measurement of the run so far. Raises `InputError` before the first epoch is over.

        process_promise: the peak of the whole process that was promised, None if only a budget was given.
        Loss and accuracy are those of the epoch whose weights the network has.
        """
        if self.last is None:
            raise InputError("there is nothing to report before the first epoch; run trainer.epochs(data, 1) first.")
        best, ended = self.patience.best, self.at.epoch >= self.at.until
        of_network = best if self.patience.weights is not None and best is not None and ended else self.last
        return Report(
            plan=self.plan,
            traced_peak=None,
            resident_peak=resident_peak(),
            seconds_per_step=self.last.seconds / self.last_steps,
            steps=self.at.steps,
            loss=of_network.loss,
            accuracy=of_network.accuracy,
            process_promise=process_promise,
            first_step_peak=self.stepper.first_peak,
            # The batch's buffers come and go with the data.
            arrays=replace(self.stepper.backprop.account(), batch=None),
            provenance=here_and_now(),
            ranks=self.ranks,
        )

    def _go_through(self) -> bool:
        """Run the steps of the epoch that are left. Return False if a signal ended them early."""
        at, count = self.at, len(self.train)
        with closing(self.train.epoch(at.epoch, start=at.batch)) as batches:
            start = perf_counter()
            for batch in batches:
                self._step(batch)
                at.seconds += perf_counter() - start
                for callback in self.callbacks:
                    callback.on_step(self)
                stopping = self.signals.noted if self.stepper.backprop.group is None else self.stopping
                if stopping is not None and at.batch < count:
                    return False
                start = perf_counter()
        return True

    def _compare_ranks(self, epoch: Epoch) -> None:
        """Tell all ranks what each took in an epoch."""
        group = self.stepper.backprop.group
        if group is not None:
            own = RankRecord(epoch.seconds, group.waited - self.waited, epoch.peak_bytes)
            self.waited, self.ranks = group.waited, group.agree(own)

    def _agree_on_signals(self) -> None:
        """Let a signal that one rank has noted be one to all, behind the steps of an epoch."""
        group = self.stepper.backprop.group
        if group is not None:
            self.signals.noted = max(group.agree(self.signals.noted or 0)) or None

    def _step(self, batch: Batch) -> None:
        """Run one step, and tell the callbacks if it failed or was skipped."""
        notes = self.stepper.backprop.notes
        if notes is not None:
            group = self.stepper.backprop.group
            notes[:] = self.signals.noted or 0, group is not None and group.rank == 0 and self.save_due()
        try:
            origin = self.stepper.step(self.at, batch)
            self.due = self.save_due() if notes is None else bool(notes[1])
            if notes is not None:
                self.stopping = int(notes[0]) or None
        except NonFiniteError as error:
            error.last_save = self.last_save
            for callback in self.callbacks:
                callback.on_failure(self, error)
            raise
        except DiskError as error:
            error.last_save = self.last_save
            raise
        if origin is not None:
            for callback in self.callbacks:
                callback.on_skip(self, origin)

    def _conclude(self) -> Epoch:
        """Evaluate after the steps of an epoch, and move the position to the next one."""
        at = self.at
        if not at.samples:
            raise NonFiniteError(f"no step of epoch {at.epoch + 1} had a finite loss. Try a smaller learning rate.")
        start = perf_counter()
        loss, accuracy = self._evaluate()
        epoch = Epoch(
            number=at.epoch + 1,
            loss=at.loss / at.samples,
            samples=at.samples,
            seconds=at.seconds,
            validation_loss=loss,
            accuracy=accuracy,
            skipped=at.skipped,
            learning_rate=self.stepper.optimizer.lr,
            peak_bytes=resident_peak(),
            validation_seconds=0.0 if self.held_out is None else perf_counter() - start,
        )
        self.last, self.last_steps = epoch, at.batch
        self._compare_ranks(epoch)
        self.stepper.torn = True  # until the epoch is counted everywhere
        at.next_epoch()
        self.patience.on_epoch(self, epoch)
        self.stepper.torn = False
        for callback in self.callbacks:
            callback.on_epoch(self, epoch)
        return epoch

    def _evaluate(self) -> tuple[float | None, float | None]:
        """Return loss and accuracy on the validation data, and tell the callbacks how far that is."""
        if self.held_out is None:
            return None, None
        return self.stepper.evaluate(Counted(self.held_out, self._tell_evaluated))

    def _tell_evaluated(self, done: int) -> None:
        for callback in self.callbacks:
            callback.on_evaluation(self, done)

    def _stop(self, signal: int) -> None:
        """Tell the callbacks of a signal, the last one first."""
        with ExitStack() as last_first:
            for callback in self.callbacks:
                last_first.callback(callback.on_stop, self, signal)

    def _end(self) -> None:
        """Tell the callbacks of the end, the last one first, and each of them even if another one raises an error."""
        with ExitStack() as last_first:
            for callback in self.callbacks:
                last_first.callback(callback.on_end, self)
