"""The one exception for a user's mistake: shown as a single line that names the key, the value and what is allowed."""

import difflib
from collections.abc import Iterable
from typing import Any

UNSAFE = [*range(32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)]
"""Control characters, among them those of text from right to left, and half characters, which no file can hold."""
PRINTABLE = dict.fromkeys(UNSAFE, "\ufffd") | dict.fromkeys(map(ord, "\t\n\v\f\r\x85\u2028\u2029"), " ")


class UserError(Exception):
    """A mistake in the command line, a config file or an input file; the entry points then exit with status 2.

    `key` is the config key, option or file at fault, `value` what was given, and `allowed` says what is accepted.
    """

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        super().__init__(key, value, allowed)  # the three arguments, so that it survives pickling between processes
        self.key, self.value, self.allowed = key, value, allowed

    def __str__(self) -> str:
        text = f"{self.key}={as_typed(self.value)}: {self.allowed}"
        return " ".join(printable(text).split())  # one line, whatever the value holds

    def _render_traceback_(self) -> list[str]:  # what IPython shows in a notebook: the one line
        return [f"UserError: {self}"]


def as_typed(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def printable(text: object) -> str:
    """`text` on one line, without what acts on a terminal or cannot be encoded: for names and messages of others."""
    return str(text).translate(PRINTABLE)


def no_such(what: str, key: str, value: Any, known: Iterable[str]) -> UserError:
    """The error for a misspelt word: `what` it is ("key", "choice"), and the `known` ones, the nearest first."""
    known = sorted(known)
    word = str(value) if what == "choice" else key.rpartition(".")[2]
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]}? " if near and near[0] != word else ""
    return UserError(key, value, f"no such {what}; {hint}allowed: {', '.join(known) or 'none'}")


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
