"""Where a run stands: what a trainer knows of its run besides network, plan and memory."""

from typing import Any

from lowmem.data.formats.columns import Schema
from lowmem.data.standardisation import Standardisation
from lowmem.errors import InputError, SaveError
from lowmem.runtime.collectives.group import Group
from lowmem.training.callbacks.saves import Saves
from lowmem.training.loop import Loop, Stepper
from lowmem.training.saved_run import Position, SavedRun


class RunState:
    """What a run has done, what it still has to do, and where it was saved."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        """What the caller wants to find in a saved run again, as JSON holds it."""
        self._stepper: Stepper | None = None
        self._group: Group | None = None
        self._position = Position()
        self._data_marks: dict[str, Any] = {}
        self._standardisation: Standardisation | None = None
        self._resumed: SavedRun | None = None
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
    def epochs_planned(self) -> int:
        """The number of epochs after which the run ends."""
        return self._position.until

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

    def _check_whole(self, what: str) -> None:
        """Refuse to go on after a step that was broken off. what: what cannot be done with the run."""
        if self._stepper is not None and self._stepper.torn:
            saved = f"Resume the last good save, {self._last_save}" if self._last_save else "Nothing was saved"
            raise InputError(
                f"this run cannot be {what}: step {self._position.steps + 1} was broken off, and its parameters are "
                f"half updated. {saved}, or begin a new trainer."
            )
