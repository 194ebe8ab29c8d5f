"""Lines of a text file in any encoding that its first bytes tell, with any line ends, gzipped or not.

UTF-8 is read with or without its mark, UTF-16 and UTF-32 with one; UTF-16 without a mark is known by its zeros: in
text, one byte of most pairs is zero. A byte that is no UTF-8 becomes a lone surrogate, which no later check takes for
a character of a number or a name.
"""

import codecs
import gzip
import io
from pathlib import Path
from typing import IO, cast

from lowmem.common.damage import damage_errors
from lowmem.errors import RunError

GZIP = b"\x1f\x8b"
LONGEST_LINE = 1 << 24
"""Characters of a line that are read at most."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = {code for code in range(32) if chr(code) not in "\t\n\f\r\x1a"} | {127}


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text by its first bytes; UTF-8 unless they say otherwise."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    pairs = max(1, len(start) // 2)
    zeros = start[: 2 * pairs : 2].count(0), start[1 : 2 * pairs : 2].count(0)
    if zeros[0] != zeros[1] and min(zeros) * 20 <= max(zeros) and max(zeros) * 4 >= pairs:
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return "utf-8"


def is_text(start: bytes) -> bool:
    """Say whether the first bytes of a file are those of a text: there are some, and no control characters."""
    text = start.decode(encoding_of(start), "replace")
    return bool(text) and not any(ord(character) in _CONTROL for character in text)


class TextLines:
    """A text file read by lines, which can go back to the place of an earlier line.

    encoding: as it was found. packed: whether the file is gzipped; going back then means unpacking it again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = path.open("rb")
        self.packed = self._raw.peek(2)[:2] == GZIP
        stream: IO[bytes] = cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw)) if self.packed else self._raw
        try:
            start = stream.read(4096)
            stream.seek(0)
            self.encoding = encoding_of(start)
            errors = "surrogateescape" if self.encoding.startswith("utf-8") else "replace"
            self._text = io.TextIOWrapper(stream, encoding=self.encoding, errors=errors, newline=None)
        except BaseException:
            self._raw.close()
            raise

    def next(self) -> str:
        """Return the next line with its end, a line feed whatever it is in the file; "" behind the last one.

        Raises `RunError` if the file cannot be unpacked.
        """
        try:
            return self._text.readline(LONGEST_LINE)
        except Exception as problem:
            if not isinstance(problem, damage_errors()):
                raise
            raise RunError(f"{self.path} cannot be unpacked: {problem}. It is truncated or damaged.") from None

    def place(self) -> int:
        """Return the place of the next line, for `go`."""
        return self._text.tell()

    def go(self, place: int) -> None:
        """Go to the place of a line."""
        self._text.seek(place)

    def close(self) -> None:
        """Close the file."""
        self._text.close()
        self._raw.close()
