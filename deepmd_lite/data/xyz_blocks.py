"""The frames of an extended XYZ file as text, in one pass: a broken one is named, and left behind.

A frame is a line with its number of atoms, a comment line, a row for each atom, and lines `VEC…` of
a cell, where somebody wrote them. No row is a lone number: a frame with too few rows shows by the
number that begins the next one, and after a broken frame reading goes on at such a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO

SHOWN = 40
"""Characters of a line that messages quote."""
LONGEST_NUMBER = 40
"""Characters, white space included, of a line that may be a number of atoms (Fortran pads it)."""


@dataclass
class Block:
    """One frame, or what is wrong with it."""

    number: int
    """Of the frame, from 0."""
    line: int
    """In the file, from 1, of its first line."""
    end: int
    """Characters of the file up to here."""
    text: str = ""
    problem: str = ""
    """Why it is no frame; empty where it may be one."""

    def odd_row(self) -> str:
        """Where it is, and which row has another number of columns than most, for a message."""
        rows = [row.split() for row in self.text.splitlines()[2:]]
        columns = Counter(len(row) for row in rows)
        usual = columns.most_common(1)[0][0] if columns else 0
        odd = next((k for k, row in enumerate(rows) if len(row) != usual), None)
        if odd is None or len(columns) == len(rows) > 1:
            return f"the frame begins in line {self.line}"
        return f"line {self.line + 2 + odd} has {len(rows[odd])} columns, other rows {usual}"


def blocks(stream: IO[str]) -> Iterator[Block]:
    """The frames of a stream in order.

    An empty line where a frame would begin is the end, or a problem where more text follows.
    """
    lines, number = _Lines(stream), 0
    while head := lines.next():
        at, count = lines.number, _count(head)
        if count is not None:
            rows = lines.take(count + 1)
            problem = _problem_of(lines, at, count, rows)
            yield Block(number, at, lines.characters, head + "".join(rows), problem)
        elif head.strip():
            lines.skip()
            problem = f"expected a number of atoms in line {at}, found {_quoted(head)}"
            yield Block(number, at, lines.characters, problem=problem)
        else:
            problem = _after_empty(lines)
            if not problem:
                return
            yield Block(number, at, lines.characters, problem=problem)
            continue  # the frame that follows has the number
        number += 1


def _problem_of(lines: _Lines, at: int, count: int, rows: list[str]) -> str:
    """What the number of rows says, of a frame from line `at` on; empty if all is well.

    Rows that belong to the next frame are put back; lines `VEC` are added to `rows`.
    """
    short = next((k for k, row in enumerate(rows[1:], 1) if _count(row) is not None), None)
    said = f"line {at} says {count} atom{'' if count == 1 else 's'}"
    if short is not None:
        lines.put_back(rows[short:])
        del rows[short:]
        return (
            f"{said}, with {_rows(short - 1)} before the next frame begins in line "
            f"{lines.number + 1}; correct the number, or add what is missing"
        )
    if len(rows) < count + 1:
        return f"{said}, and the file ends after {_rows(max(0, len(rows) - 1))}"
    while (row := lines.next()).lstrip().startswith("VEC"):
        rows.append(row)
    if row:
        lines.put_back([row])
    if _count(row) is not None or len(row.split()) != len(rows[-1].split()):
        return ""  # no row: whatever is wrong with it, it is not of this frame
    following = lines.number + 1
    lines.skip()
    return (
        f"{said}, and more rows follow (line {following}: {_quoted(row)}); correct the number, or "
        "take the rows out"
    )


def _after_empty(lines: _Lines) -> str:
    """What is wrong with an empty line; empty where nothing follows."""
    while row := lines.next():
        if row.strip():
            lines.put_back([row])
            break
    else:
        return ""
    return (
        f"expected a number of atoms, found an empty line and then more text ({_quoted(row)}); "
        "remove the empty line"
    )


class _Lines:
    """Lines of a stream, which can be put back."""

    def __init__(self, stream: IO[str]) -> None:
        self.number = 0
        """Lines that were taken."""
        self.characters = 0
        self._stream = iter(stream)
        self._back: list[str] = []
        """The next ones, the last first."""

    def next(self) -> str:
        """Empty at the end."""
        row = self._back.pop() if self._back else next(self._stream, "")
        self.number += bool(row)
        self.characters += len(row)
        return row

    def take(self, n: int) -> list[str]:
        """So many, or all that are left."""
        rows = [self._back.pop() for _ in range(min(n, len(self._back)))]
        rows += islice(self._stream, n - len(rows))
        self.number += len(rows)
        self.characters += sum(map(len, rows))
        return rows

    def put_back(self, rows: list[str]) -> None:
        """They come again."""
        self.number -= len(rows)
        self.characters -= sum(map(len, rows))
        self._back += rows[::-1]

    def skip(self) -> None:
        """To the next line that could begin a frame."""
        while row := self.next():
            if _count(row) is not None:
                self.put_back([row])
                return


def _count(line: str) -> int | None:
    """The number of atoms that a line is; None for any other line."""
    if len(line) > LONGEST_NUMBER:
        return None
    text = line.strip().removeprefix("+")
    return int(text) if text.isascii() and text.isdigit() else None


def _quoted(line: str) -> str:
    return repr(line.strip()[:SHOWN])


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"
