"""Strict reading of JSON into typed dataclasses, with the path of everything that is wrong.

Unknown, missing and duplicate keys, wrong types and numbers that are not finite are all reported
at once. Standard library only.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

MAX_JSON_BYTES = 4_000_000
OMITTED = {"omitted": True}
"""Metadata of a dataclass field that JSON leaves out where its value is None."""


@dataclass(frozen=True)
class Violation:
    """One way in which something differs from what was agreed, and how to mend it."""

    where: str
    expected: str
    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}; {self.mend}"


class ContractError(ValueError):
    """Raised with EVERY violation found (`violations`), not only the first."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("\n".join(str(violation) for violation in self.violations))


class InputError(ContractError):
    """What was given is not what it should be (a key, a model, a YAML file): no bundle is wrong.

    The commands end with "bad input" instead of "refused".
    """


def require(where: str, *checks: tuple[bool, str, str, object]) -> None:
    """Raise InputError with every check (held, key, what was expected, found) that failed."""
    failed = [
        Violation(f"{where}.{key}", expected, _show(found), "correct the value")
        for held, key, expected, found in checks
        if not held
    ]
    if failed:
        raise InputError(failed)


def parse_json(text: str | bytes, where: str) -> object:
    """Parse strict JSON: bounded size, no NaN or Infinity, no duplicate keys (ContractError)."""
    mend = "restore the file from where the bundle was exported"
    if len(text) > MAX_JSON_BYTES:
        size = Violation(where, f"at most {MAX_JSON_BYTES} bytes", f"{len(text)} bytes", mend)
        raise ContractError([size])
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ContractError([Violation(where, "strict JSON", str(error), mend)]) from None


def differences(expected: object, found: object, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (path, expected, found) for every leaf in which two JSON documents differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from differences(
                expected.get(key, "nothing"), found.get(key, "nothing"), f"{path}.{key}"
            )
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (left, right) in enumerate(zip(expected, found, strict=True)):
            yield from differences(left, right, f"{path}[{index}]")
    elif expected != found or type(expected) is not type(found):
        yield path.lstrip("."), _show(expected), _show(found)


# Reading: JSON -> dataclasses, with the path of everything that does not fit.


def _no_constant(token: str) -> float:
    raise ValueError(f"{token} is not a finite number")


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
    return document


def _show(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def decode(kind: Any, value: object, where: str, violations: list[Violation]) -> Any:
    """Turn a JSON value into `kind`, or add the violations that say why it does not fit."""
    origin = typing.get_origin(kind)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where, violations)
    if origin in (typing.Union, types.UnionType):
        inner = next(option for option in typing.get_args(kind) if option is not type(None))
        return None if value is None else decode(inner, value, where, violations)
    if origin is tuple:
        return _decode_tuple(kind, value, where, violations)
    if origin is dict and isinstance(value, dict):
        inner = typing.get_args(kind)[1]
        return {k: decode(inner, v, f"{where}.{k}", violations) for k, v in value.items()}
    if origin is Literal:
        options = typing.get_args(kind)
        if not (isinstance(value, str) and value in options):
            _refuse(violations, where, "one of " + ", ".join(options), value)
        return value
    return _decode_scalar(kind, value, where, violations)


def _decode_dataclass(kind: Any, value: object, where: str, violations: list[Violation]) -> Any:
    if not isinstance(value, dict):
        return _refuse(violations, where, "an object", value)
    hints = typing.get_type_hints(kind)
    for key in sorted(value.keys() - hints.keys(), key=str):
        mend = "remove the key, or read the file with the release that wrote it"
        violations.append(Violation(f"{where}.{key}", "no such key", "an unknown key", mend))
    optional = {field.name for field in fields(kind) if field.metadata == OMITTED}
    for key in (f.name for f in fields(kind) if f.name not in value.keys() | optional):
        mend = "add the key; nothing is assumed in its place"
        violations.append(Violation(f"{where}.{key}", "the key", "nothing", mend))
    before = len(violations)
    content = {
        key: decode(hint, value[key], f"{where}.{key}", violations)
        for key, hint in hints.items()
        if key in value
    }
    if len(violations) > before or content.keys() | optional != hints.keys():
        return None
    try:
        return kind(**content)
    except ContractError as error:
        violations.extend(error.violations)
        return None


def _decode_tuple(kind: Any, value: object, where: str, violations: list[Violation]) -> Any:
    inner, *rest = typing.get_args(kind)
    count = None if rest == [Ellipsis] else 1 + len(rest)
    if not isinstance(value, list | tuple) or count not in (None, len(value)):
        return _refuse(violations, where, f"a list{f' of {count}' if count else ''}", value)
    return tuple(
        decode(inner, item, f"{where}[{index}]", violations) for index, item in enumerate(value)
    )


def _decode_scalar(kind: type, value: object, where: str, violations: list[Violation]) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond every float
            number = math.inf
        if not math.isfinite(number):
            return _refuse(violations, where, "a finite number", value)
        return number
    if type(value) is kind:
        return value
    names = {
        str: "a text", int: "a whole number", float: "a finite number", bool: "true or false",
        Path: "a path",
    }  # fmt: skip
    return _refuse(violations, where, names.get(kind, str(kind)), value)


def _refuse(violations: list[Violation], where: str, expected: str, found: object) -> None:
    violations.append(Violation(where, expected, _show(found), "correct the value"))
