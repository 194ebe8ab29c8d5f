"""A witness: a small process beside rank 0 that says which rank died, when a rank can no longer say it itself.

A rank that is killed, or that the system ends as memory runs out, says nothing, and launchers end the others at once.
So every rank has a connection to the witness, which the system closes when the rank dies. The first one that closes
without a word is the rank that died; the witness writes one line, with the last good save, and ends.

This file is run as a script, so it imports nothing of lowmem. A run goes on without a witness where none can be had.
"""

import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
from contextlib import suppress

LAUNCHERS = ("mpiexec", "mpirun", "orterun", "prterun", "srun")
"""Names of launchers, or what they begin with; their standard error is still there when they have ended a rank's."""

BYE = b"bye"
"""What a rank says before it ends on its own."""

JOINING, LINGERING = 60.0, 1.0
"""Seconds within which all ranks must have come, and for which the line waits for the launcher's own lines."""


class Lifeline:
    """A rank's connection to the witness."""

    def __init__(self, address: tuple[str, str, int, str] | None, rank: int) -> None:
        self._socket: socket.socket | None = None
        if address is None:
            return
        host, name, port, token = address
        with suppress(OSError):
            own = "127.0.0.1" if name == socket.gethostname() else host
            self._socket = socket.create_connection((own, port), timeout=5)
            self._say(f"{token} {rank} process {os.getpid()} on {socket.gethostname()}")

    def saved(self, text: str) -> None:
        """Tell where the run was saved last."""
        self._say(f"saved {text}")

    def bye(self) -> None:
        """Say that this rank ends on its own, or has said itself why it ends."""
        self._say(BYE.decode())

    def _say(self, text: str) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendall(text.replace("\n", " ").encode() + b"\n")


def start(size: int) -> tuple[str, str, int, str] | None:
    """Start the witness of so many ranks; on rank 0. Return host, host's name, port and a token, None without one."""
    token = secrets.token_hex(8)
    try:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(size), token, *_launchers()],
            stdout=subprocess.PIPE,
            start_new_session=True,  # launchers end whole groups of processes
        )
        assert process.stdout is not None
        with process.stdout as answer:
            port = int(answer.readline())
    except (OSError, ValueError):
        return None
    process.returncode = 0  # nobody waits for it: it ends when all ranks have
    name = socket.gethostname()
    try:
        return socket.gethostbyname(name), name, port, token
    except OSError:
        return "127.0.0.1", name, port, token


def _launchers() -> list[str]:
    """Return where the standard error of the launcher above this process can be opened, if that is known."""
    process = os.getppid()
    for _ in range(6):
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8") as stream:
                name, _, rest = stream.read().partition("(")[2].rpartition(")")
        except OSError:
            break
        if name.startswith(LAUNCHERS):
            return [f"/proc/{process}/fd/2"]
        process = int(rest.split()[1])
    return []


def watch(size: int, token: str, paths: list[str]) -> None:
    """Be the witness. paths: where the line is written, if it can be opened; else to standard error."""
    out = sys.stderr.fileno()
    for path in paths:
        with suppress(OSError):
            out = os.open(path, os.O_WRONLY | os.O_APPEND)
    listener = socket.create_server(("", 0), backlog=size)
    print(listener.getsockname()[1], flush=True)
    sys.stdout.close()
    lines, saved = _joined(listener, size, token), "Nothing was saved."
    watched = selectors.DefaultSelector()
    for line in lines:
        watched.register(line, selectors.EVENT_READ)
    while watched.get_map():
        for key, _ in watched.select():
            text = _heard(key.fileobj)  # type: ignore[arg-type]
            for word in text.splitlines():
                if word.startswith(b"saved "):
                    saved = f"The last good save is {word[6:].decode(errors='replace')}."
            if BYE in text.splitlines():
                return  # this rank says itself what is to be said
            if not text:
                _tell(out, lines[key.fileobj], saved)  # type: ignore[index]
                return


def _joined(listener: socket.socket, size: int, token: str) -> dict[socket.socket, str]:
    """Return the connections of all ranks, with what each is called; ends the process if they do not come."""
    lines: dict[socket.socket, str] = {}
    end = time.monotonic() + JOINING
    while len(lines) < size:
        listener.settimeout(max(end - time.monotonic(), 0.01))
        try:
            line, _ = listener.accept()
            line.settimeout(5)
            given, _, name = line.recv(500).decode(errors="replace").strip().partition(" ")
        except OSError:
            sys.exit(0)
        if given == token:
            lines[line] = name
    listener.close()
    return lines


def _heard(line: socket.socket) -> bytes:
    """Return what a rank says, nothing if it is dead."""
    try:
        return line.recv(4096)
    except OSError:
        return b""


def _tell(out: int, name: str, saved: str) -> None:
    """Write the line."""
    rank, _, where = name.partition(" ")
    time.sleep(LINGERING)
    text = (
        f"lowmem: rank {rank} ({where}) ended without a word: it was killed, or its machine ran out of memory. "
        f"All ranks end. {saved}\n"
    )
    with suppress(OSError):
        os.write(out, text.encode())


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
