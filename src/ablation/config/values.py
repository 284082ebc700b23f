"""Rules for a key's value. They stand beside the fields of the schema, in each field's metadata."""

import math
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What a value must satisfy, and how an error message says so."""

    holds: Callable[[Any], bool]
    allowed: str


def value(default: Any, *rules: Rule) -> Any:
    """A dataclass field with a default and rules. The rules of a field that may be null do not apply to null."""
    return field(default=default, metadata={"rules": rules})


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def is_plain_name(value: Any) -> bool:
    """Whether `value` may be part of a folder's name: nothing in it leads out of the results folder."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", value) is not None


def is_growing(values: list[Any]) -> bool:
    """Whether `values` are fractions between 0 and 1, each greater than the one before."""
    return all(is_number(v) and 0 < v < 1 for v in values) and values == sorted(set(values))


def one_of(*allowed: str) -> Rule:
    return Rule(lambda v: v in allowed, f"must be one of {', '.join(allowed)}")


def at_most(most: int) -> Rule:
    return Rule(lambda v: v <= most, f"must be at most {most:,}")


def seed_below(end: int) -> Rule:
    return Rule(lambda v: 0 <= v < end, f"must be zero or positive, at most {end - 1}")


POSITIVE = Rule(lambda v: 0 < v < math.inf, "must be positive")
NOT_NEGATIVE = Rule(lambda v: 0 <= v < math.inf, "must be zero or positive")
FRACTION = Rule(lambda v: 0 < v < 1, "must lie between 0 and 1, both excluded")
PLAIN_NAME = Rule(
    is_plain_name, "must be at most 64 letters, digits, '.', '_' and '-': it becomes part of a folder's name"
)
