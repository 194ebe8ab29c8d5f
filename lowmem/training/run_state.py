"""Where a run stands: what a trainer knows of its run besides network, plan and memory."""

from pathlib import Path
from typing import Any

from lowmem.common.checks import positive, positive_number
from lowmem.common.files import check_apart
from lowmem.common.fixed import Fixed
from lowmem.common.turns import Turn
from lowmem.data.formats.columns import Schema
from lowmem.data.samples import Samples
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.interchange.safetensors import checksum
from lowmem.measure.placement import ON_DISK
from lowmem.nn.mlp import MLP
from lowmem.nn.optimizers import Optimizer
from lowmem.planning.plan import Plan
from lowmem.runtime.backprop import is_taken
from lowmem.runtime.collectives.group import Group
from lowmem.training.arguments import Unfinished, as_schedule
from lowmem.training.callbacks.best_weights import BestWeights
from lowmem.training.callbacks.patience import Patience, Stopping
from lowmem.training.callbacks.saves import Saves
from lowmem.training.data_marks import check_marks, marks_of
from lowmem.training.learning_rate import LearningRate
from lowmem.training.loop import Loop, Stepper
from lowmem.training.position import Position
from lowmem.training.same_bits import what_bits_depend_on
from lowmem.training.sample_weights import BatchWeights
from lowmem.training.saved_run import SavedRun
from lowmem.training.step_memory import StepMemory

MADE_ANEW = "Its memory is planned with it: make a new trainer."
RESUMED = (
    "Its memory is planned with it: make a new trainer, or save this one and resume it with another value, "
    "lowmem.Trainer.resume(path, {}=...)."
)


class RunState(Fixed):
    """What a run has done, what it still has to do, and where it was saved."""

    fixed = {  # noqa: RUF012 - as in `Fixed`
        **dict.fromkeys(("mlp", "optimizer", "batch_size", "seed"), MADE_ANEW),
        **{name: RESUMED.format(name) for name in ("budget", "ram", "clip_norm", "clip_twice", "non_finite")},
    }

    mlp: MLP
    optimizer: Optimizer
    _turn: Turn
    _options: dict[str, Any]
    _weights: BatchWeights
    _memory: StepMemory

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        """What the caller wants to find in a saved run again, as JSON holds it."""
        self._stepper: Stepper | None = None
        self._group: Group | None = None
        self._position = Position()
        self._data_marks: dict[str, Any] = {}
        self._standardisation: Standardisation | None = None
        self._resumed: SavedRun | None = None
        self._best: BestWeights | None = None
        self._loop: Loop | None = None
        self._saves: Saves | None = None
        self._last_save: str | None = None
        self._files: tuple[Path, ...] = ()
        self._schedule: LearningRate | Unfinished | None = None
        self._clip: tuple[float | None, ...] = ()

    @property
    def plan(self) -> Plan:
        """The plan of a step; from the first call of `epochs` on it counts the buffers of the data too."""
        return self._memory.plan

    @property
    def schedule(self) -> LearningRate | Unfinished | None:
        """What sets the optimizer's rate before each step; another one takes effect at once."""
        return self._schedule

    @schedule.setter
    def schedule(self, given: LearningRate | Unfinished | float | str | None) -> None:
        self._schedule = as_schedule(given, self.optimizer)
        if self._stepper is not None and not isinstance(self._schedule, Unfinished):
            self._stepper.schedule = self._schedule

    @property
    def clip_value(self) -> float | None:
        """What every gradient is cut to: the optimizer's setting, once it makes this run's steps."""
        return self._clip[0] if self._clip else self.optimizer.clip_value

    @clip_value.setter
    def clip_value(self, value: float | None) -> None:
        value = None if value is None else positive_number("clip_value", value)
        if self._stepper is None and is_taken(self.optimizer):
            self._clip = (value,)  # until the optimizer is this run's
        else:
            self._clip, self.optimizer.clip_value = (), value

    @property
    def alone(self) -> bool:
        """Whether this process shares its run with no other rank."""
        return self._group is None

    @property
    def speaks(self) -> bool:
        """Whether this process is the one that tells people of the run and writes it to files."""
        return self._group is None or self._group.rank == 0

    @property
    def epochs_done(self) -> int:
        """Whole epochs trained, with those before a saved run was resumed."""
        return self._position.epoch

    @property
    def steps_done(self) -> int:
        """Steps trained, with those before a saved run was resumed."""
        return self._position.steps

    @property
    def epochs_planned(self) -> int:
        """The number of epochs after which the run ends."""
        return self._position.until

    @property
    def best_epoch(self) -> int | None:
        """The number of the best epoch, whose weights patience keeps; None before the first epoch is over."""
        return self._position.best_epoch if self._position.best is not None else None

    @property
    def columns(self) -> Schema | None:
        """The columns of the training data, if they have names; for `open_data(path, columns=trainer.columns)`."""
        held = self._data_marks.get("columns")
        return None if held is None else Schema.from_dict(held)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by class number, where the labels are text; known from the first data on."""
        names = self._data_marks.get("class_names")
        return None if names is None else tuple(names)

    @property
    def last_save(self) -> str | None:
        """The file that the run was last saved to, and the step after which; None if it was not saved."""
        return self._last_save

    @property
    def save_problem(self) -> SaveError | None:
        """The error of the last save, None if it did not fail."""
        return None if self._saves is None else self._saves.problem

    @property
    def between_epochs(self) -> bool:
        """False while steps are run, and after an error among them: then there is nothing to save."""
        return self._loop is None or self._loop.between_epochs

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - as object's
        """Refuse copies and pickles, whose memory would be bound to nothing."""
        raise InputError(
            "a trainer cannot be copied or pickled: its memory is bound to its network. Save it with "
            "trainer.save(path), and resume the file as often as wanted with lowmem.Trainer.resume(path)."
        )

    def _end_of(self, count: int | None, until: int | None) -> int:
        """Return the number of epochs after which the run ends. Raises `InputError` if none would be trained.

        count: epochs to train now. until: epochs in all. Both None: as the run was begun.
        """
        at = self._position
        if count is not None and until is not None:
            raise InputError("count says how many epochs to train now, until how many the run has in all; give one.")
        if count is not None:
            return at.epoch + positive("epochs", count)
        if until is None and at.until <= at.epoch:
            raise InputError(
                "epochs must be a positive whole number; only a run that was interrupted knows how many are left."
            )
        until = at.until if until is None else positive("until", until)
        if until <= at.epoch:
            raise InputError(f"this run has {at.epoch} epochs already; until={at.epoch + 1} or more goes on.")
        return until

    def _check_save(self, path: Path) -> None:
        """Refuse a file that holds the data, and a schedule that is not known to its end. Raises `InputError`."""
        check_apart({"path": path}, {"data of this run": self._files})
        if isinstance(self.schedule, Unfinished):
            raise InputError(
                'schedule="cosine" ends with the epochs that trainer.epochs will be asked for next. Call that first.'
            )

    def _settings(self) -> dict[str, Any]:
        """Return the keywords that make this trainer again, as a saved run keeps them."""
        names = ("batch_size", "budget", "ram", "seed", "clip_norm", "clip_twice", "non_finite", "clip_value")
        settings = self._options | {name: getattr(self, name) for name in names}
        settings |= {
            "class_weights": self._weights.of_classes,
            "schedule": self.schedule.to_dict() if isinstance(self.schedule, LearningRate) else None,
            **what_bits_depend_on(self.plan),
        }
        return settings | ({} if self.mlp.paged is None else {ON_DISK: True})

    def _note_save(self, path: Path) -> None:
        """Remember the last good save, for all who may have to name it."""
        self._last_save = f"{path} (step {self._position.steps})"
        if self._loop is not None:
            self._loop.last_save = self._last_save
        if self._group is not None and self.speaks:
            self._group.saved(self._last_save)

    def _agree(self, until: int) -> None:
        """See that all ranks are about to do the same. until: the epoch after which the run ends."""
        if self._group is None:
            return
        from lowmem.runtime.collectives.agreement import check_agreement

        assert self._stepper is not None
        backprop, at, mlp = self._stepper.backprop, self._position, self.mlp
        plan, optimizer = backprop.plan, self._stepper.optimizer
        facts = {
            "the network": plan.architecture,
            "the initial parameters": f"{checksum(lambda: [('', mlp.streamed(mlp.learned))]):08x}",
            "the data": self._data_marks,
            "the optimizer": f"{optimizer.name}, {optimizer.settings()}, clip_value={optimizer.clip_value}",
            "the learning rate": self._stepper.schedule,
            "shards, batch and passes": (plan.shards, plan.batch_size, plan.micro_batch),
            "engine and threads": (*what_bits_depend_on(plan).values(), backprop.engine.instructions),
            "where the run stands": (at.epoch, at.batch, at.steps, until),
        }
        check_agreement(self._group, facts)

    def _check_whole(self, what: str) -> None:
        """Refuse to go on after a step that was broken off. what: what cannot be done with the run."""
        if self._stepper is not None and self._stepper.torn:
            saved = f"Resume the last good save, {self._last_save}" if self._last_save else "Nothing was saved"
            raise InputError(
                f"this run cannot be {what}: step {self._position.steps + 1} was broken off, and its parameters are "
                f"half updated. {saved}, or begin a new trainer."
            )

    def _check_begin(self) -> None:
        """Refuse epochs after a step that was broken off, and where they would undo another's work.

        The last is so where a run would put its last weights into a network that was trained since the run ended.
        """
        self._check_whole("continued")
        if self._best is not None and self._best.overwritten:
            saved = f"Trainer.resume goes on with {self._last_save}" if self._last_save else "This run was not saved"
            raise InputError(
                "this run ended with its best weights and would go on from its last ones, but its network was changed "
                f"since, as by another trainer, and that would be lost. {saved}; train what the network has now with "
                "a new trainer."
            )

    def _marks_of(self, train: Samples) -> dict[str, Any]:
        """Return what tells data from others; in the middle of an epoch they must be those that it began with."""
        marks = marks_of(train)
        if self._position.batch:
            check_marks(marks, self._data_marks)
        return marks

    def _remember(self, train: Samples, held_out: Samples | None, marks: dict[str, Any]) -> None:
        """Note what the data are, and the files that hold them. marks: of the training data."""
        at = self._position
        self._files = (*train.files, *(() if held_out is None else held_out.files))
        if self._data_marks and marks["fingerprint"] != self._data_marks.get("fingerprint"):
            at.forget()  # losses on other data tell nothing of these
        self._data_marks = marks
        self._standardisation = train.standardisation

    def _patience(self, stopping: Stopping) -> Patience:
        """Return what ends the run early, and keeps the best weights; the network has its last ones from here on."""
        at = self._position
        if at.metric != stopping.metric:
            at.forget()
            at.metric = stopping.metric
        if self._best is not None:
            self._best.show(best=False)
        if stopping.epochs is None:
            self._best = None
            return Patience(stopping, None)
        if at.waited >= stopping.epochs:
            at.waited = 0  # it ended by that, and is continued on purpose
        if self._best is None:
            self._best = BestWeights(self.mlp)  # of a resumed run, whose last weights are loaded later
            if not at.aside and (at.batch or at.best_epoch != at.epoch):
                at.best = None  # its weights were not kept
        return Patience(stopping, self._best)

    @property
    def _aside(self) -> BestWeights | None:
        """The best and the last weights, where they are kept and differ."""
        at = self._position
        differ = at.best is not None and (at.batch > 0 or at.best_epoch != at.epoch)
        return self._best if differ else None
