"""The thread that keeps messages moving, tested without MPI."""

import threading

from lowmem.runtime.collectives.progress import Progress


class Message:
    """A message that is done when it has been asked for so often."""

    def __init__(self, questions: int) -> None:
        self.left, self.over = questions, threading.Event()

    def done(self) -> bool:
        assert not self.over.is_set(), "asked for once more"
        self.left -= 1
        if not self.left:
            self.over.set()
        return not self.left


def test_messages_are_asked_for_until_they_are_done_and_not_longer() -> None:
    progress = Progress()
    for questions in (1, 5, 2):  # the thread is awake already, or sleeps again
        messages = [Message(questions), Message(3)]
        for message in messages:
            progress.watch(message)
        assert all(message.over.wait(30) for message in messages)
    progress.stop()
    assert "lowmem messages" not in {thread.name for thread in threading.enumerate()}
