"""Where a run stands: what a trainer knows of its run besides network, plan and memory."""

from pathlib import Path
from typing import Any

from lowmem.common.checks import positive
from lowmem.common.files import check_place
from lowmem.common.turns import Turn
from lowmem.data.formats.columns import Schema
from lowmem.data.samples import Samples
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.interchange.safetensors import checksum
from lowmem.nn.mlp import MLP
from lowmem.runtime.collectives.group import Group
from lowmem.training.callbacks.best_weights import BestWeights
from lowmem.training.callbacks.patience import Patience, Stopping
from lowmem.training.callbacks.saves import Saves
from lowmem.training.data_marks import check_marks, marks_of
from lowmem.training.loop import Loop, Stepper
from lowmem.training.position import Position
from lowmem.training.same_bits import what_bits_depend_on
from lowmem.training.saved_run import SavedRun
from lowmem.training.saved_run_checks import check_notes


class RunState:
    """What a run has done, what it still has to do, and where it was saved."""

    mlp: MLP
    _turn: Turn

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
        """Refuse a place and notes that every save would refuse, before there is anything to save."""
        check_place(path, "the run")
        check_notes(self.notes)

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

    def _remember(self, train: Samples) -> None:
        """Note what the data are; in the middle of an epoch they must be those that it began with."""
        marks, at = marks_of(train), self._position
        if at.batch:
            check_marks(marks, self._data_marks)
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
