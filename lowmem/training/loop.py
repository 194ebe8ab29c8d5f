"""Epochs: step after step over the batches, with everything that happens around a step."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from lowmem.common.checks import finite
from lowmem.data.samples import Batch, Batches
from lowmem.errors import NonFiniteError
from lowmem.measure.memory import resident_peak
from lowmem.nn.optimizers import Optimizer
from lowmem.runtime.backprop import Backprop
from lowmem.runtime.inference import evaluate
from lowmem.runtime.nonfinite import where_it_began
from lowmem.training.autosave import Autosave
from lowmem.training.journal import Journal
from lowmem.training.learning_rate import LearningRate
from lowmem.training.sample_weights import BatchWeights
from lowmem.training.saved_run import Position

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the data.

    number: from 1. loss: mean over the samples, each taken before its step's update. seconds: training alone.
    validation_loss, accuracy: on the validation data, after the epoch; accuracy where the targets are labels.
    skipped: steps without an update, as their loss was not finite. learning_rate: of the last step.
    peak_bytes: the most memory the whole process has held until now.
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

    @property
    def samples_per_second(self) -> float:
        """Training throughput."""
        return self.samples / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Stepper:
    """What makes a step: the network's bound plan, and what is set anew for each batch.

    outputs: memory for those of a batch of evaluation. schedule: sets the optimizer's rate. skips: a loss that is not
    finite costs the step, not the run. first_peak: the most memory that the process had held after the first step.
    """

    backprop: Backprop
    optimizer: Optimizer
    outputs: Array
    weights: BatchWeights
    schedule: LearningRate | None
    skips: bool
    first_peak: int | None = None

    def step(self, at: Position, batch: Batch) -> str | None:
        """Run one step and move on. Return where a loss that is not finite began, None if it is finite.

        Raises `NonFiniteError` for such a loss if it is not to be skipped, or no later step would be any better.
        """
        if self.schedule is not None:
            self.optimizer.lr = self.schedule.at(at.steps)
        began = None
        try:
            at.loss += self.backprop(batch.x, batch.y, self.weights.of(batch))[0] * len(batch)
            at.samples += len(batch)
        except NonFiniteError as error:
            mlp = self.backprop.mlp
            began = where_it_began(mlp, batch.x)
            if not self.skips or not finite(mlp.parameters):
                place = f"step {at.steps + 1} (epoch {at.epoch + 1}, batch {at.batch + 1})"
                raise NonFiniteError(f"{str(error).rstrip('.')}. At {place} {began}.") from None
            at.skipped += 1
        at.batch += 1
        at.steps += 1
        self.first_peak = self.first_peak or resident_peak()
        return began

    def evaluate(self, batches: Batches) -> tuple[float, float | None]:
        """Return loss and accuracy over one pass, in the memory of the training step."""
        labels = self.backprop.mlp.architecture.loss_facts.labels
        return evaluate(batches, self.outputs, self.backprop.forward, self.backprop.loss, labels=labels)


@dataclass(slots=True)
class Run:
    """Epochs from a position on.

    on_step: told the batches done and those of the epoch. patience: epochs without a lower loss after which the run
    ends. between_epochs: False while steps are run, and after an error among them. last: the epoch done last, of
    last_steps steps.
    """

    stepper: Stepper
    at: Position
    train: Batches
    held_out: Batches | None
    autosave: Autosave
    journal: Journal
    on_step: Callable[[int, int], None] | None
    patience: int | None
    between_epochs: bool = True
    last: Epoch | None = None
    last_steps: int = 0

    def epochs(self) -> Iterator[Epoch]:
        """Yield the epochs that are left. Raises `NonFiniteError`, and `SaveError` if the last save failed."""
        at, autosave, journal = self.at, self.autosave, self.journal
        while at.epoch < at.until:
            finished, self.between_epochs = None, False
            with autosave.holding_signals():
                if self._go_through():
                    finished = self._conclude()
                if autosave.stopped_by is not None:
                    autosave.save()
                    journal.write("stopped", signal=autosave.stopped_by, steps=at.steps, saved=autosave.last)
            # A signal that was noted has been sent again; if the caller lives on, so does the run.
            self.between_epochs = True
            if finished is not None:
                yield finished
        journal.write("end", steps=at.steps, saved=autosave.last)
        if autosave.problem is not None:
            raise autosave.problem

    def _go_through(self) -> bool:
        """Run the steps of an epoch that are left; False if a signal ended them early."""
        at, count = self.at, len(self.train)
        with closing(self.train.epoch(at.epoch, start=at.batch)) as batches:
            start = perf_counter()
            for batch in batches:
                self._step(batch)
                at.seconds += perf_counter() - start
                if self.on_step is not None:
                    self.on_step(at.batch, count)
                self.autosave.step_done()
                if self.autosave.stopped_by is not None and at.batch < count:
                    return False
                start = perf_counter()
        return True

    def _step(self, batch: Batch) -> None:
        """Run one step; of one that fails say what was kept."""
        try:
            began = self.stepper.step(self.at, batch)
        except NonFiniteError as error:
            kept = f"The last good save is {self.autosave.last}." if self.autosave.last else "Nothing was saved."
            self.journal.write("non-finite", steps=self.at.steps, error=str(error))
            raise NonFiniteError(f"{error} {kept}") from None
        if began is not None:
            self.journal.write("skipped", steps=self.at.steps, where=began)

    def _conclude(self) -> Epoch:
        """Evaluate after an epoch, say how it went, save if it is time, and see whether it was the last one."""
        at = self.at
        if not at.samples:
            raise NonFiniteError(f"no step of epoch {at.epoch + 1} had a finite loss. Try a smaller learning rate.")
        loss, accuracy = (None, None) if self.held_out is None else self.stepper.evaluate(self.held_out)
        made = Epoch(
            at.epoch + 1,
            at.loss / at.samples,
            at.samples,
            at.seconds,
            loss,
            accuracy,
            at.skipped,
            self.stepper.optimizer.lr,
            resident_peak(),
        )
        self.last, self.last_steps = made, at.batch
        at.next_epoch()
        judged = made.loss if loss is None else loss
        better = at.best is None or judged < at.best
        at.best, at.waited = (judged, 0) if better else (at.best, at.waited + 1)
        if self.patience is not None and at.waited >= self.patience:
            at.until = at.epoch
        self.journal.write("epoch", steps=at.steps, **asdict(made))
        self.autosave.epoch_done(last=at.epoch >= at.until)
        return made
