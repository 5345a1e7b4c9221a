"""From text to a specification: a recursive descent, with the place of whatever is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from robot_policies.strict import InputError, Violation
from robot_policies.temporal_logic.formulas import (
    Comparison,
    Extreme,
    Formula,
    Junction,
    Not,
    Specification,
    Until,
    Window,
)

EXTREMES = {
    "always": (True, False), "eventually": (False, False),
    "historically": (True, True), "once": (False, True),
}  # fmt: skip
"""Word -> whether all of them, whether in the past."""
UNTILS = {"until": False, "since": True}
WORDS = {*EXTREMES, *UNTILS, "not", "and", "or", "implies", "abs", "scale"}
SIGNS = {"<": -1, "<=": -1, ">": 1, ">=": 1}
UNITS = {
    "1": ("1", 1.0), "%": ("1", 0.01), "rad": ("rad", 1.0), "deg": ("rad", math.pi / 180),
    "m": ("m", 1.0), "cm": ("m", 0.01), "mm": ("m", 0.001), "s": ("s", 1.0), "ms": ("s", 0.001),
    "m/s": ("m/s", 1.0), "rad/s": ("rad/s", 1.0), "deg/s": ("rad/s", math.pi / 180),
}  # fmt: skip
"""Unit -> the unit it can be converted to, and the factor; others only equal themselves."""
TOKEN = re.compile(
    r"\s+|#[^\n]*|(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)|(?P<sign><=|>=|<|>)"
    r"|(?P<word>[A-Za-z_%][\w%]*(/[A-Za-z_0-9]\w*)*(\^\d+)?)|(?P<mark>[()\[\],])"
)
LARGEST = 1_000_000
"""Samples in a window, and characters of text: more is a mistake."""
DEEPEST = 50


@dataclass(frozen=True)
class Token:
    """A word, a number, a sign or a mark; of kind "end" behind the last one."""

    kind: str
    text: str
    at: int


def read(path: str | Path, signals: Mapping[str, str], dt: float) -> Specification:
    """A specification from a file; raises as `parse`, and InputError where it is no text file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        mend = "give a text file, as robot_policies/temporal_logic describes"
        raise InputError([Violation(str(path), "a specification", str(error), mend)]) from None
    return parse(text, signals, dt)


def parse(text: str, signals: Mapping[str, str], dt: float) -> Specification:
    """What a text asks for.

    Args:
        text: as in robot_policies.temporal_logic; `#` begins a comment.
        signals: those that there are, each with its unit.
        dt: s between samples.

    Raises:
        InputError: with line and column, for what is no specification, an unknown signal, a unit
            that is not the signal's, and a window without a sample.
    """
    if not (math.isfinite(dt) and dt > 0):
        raise InputError([Violation("dt", "above 0 s", str(dt), "correct the value")])
    parser = _Parser(text, dict(signals), dt)
    formula = parser.whole()
    return _specification(" ".join(_uncommented(text).split()), formula, parser)


def _specification(text: str, formula: Formula, parser: _Parser) -> Specification:
    names = sorted(set(_names(formula)))
    signals = {name: parser.signals[name] for name in names}
    clauses = ()
    if isinstance(formula, Junction) and formula.all:
        clauses = tuple(
            _specification(parser.source[id(child)], child, parser) for child in formula.children
        )
    return Specification(text, formula, signals, parser.dt, clauses)


def _names(formula: Formula) -> list[str]:
    own = [formula.signal] if isinstance(formula, Comparison) else []
    return own + [name for child in formula.children for name in _names(child)]


def _uncommented(text: str) -> str:
    return re.sub(r"#[^\n]*", "", text)


class _Parser:
    """One method for each level of binding, loosest first."""

    def __init__(self, text: str, signals: dict[str, str], dt: float) -> None:
        self.text, self.signals, self.dt = text, signals, dt
        self.source: dict[int, str] = {}
        """Text of every part, by id, on one line."""
        self._depth = 0
        self._tokens = self._split()
        self._next = 0

    def whole(self) -> Formula:
        formula = self._implication()
        if self._token.kind != "end":
            self._fail("and, or, implies, until, since, or the end", self._token)
        return formula

    def _implication(self) -> Formula:
        with_begin = self._token.at
        left = self._junction(False)
        if not self._takes("implies"):
            return left
        return self._noted(Junction(False, (Not((left,)), self._implication())), with_begin)

    def _junction(self, all_of: bool) -> Formula:
        begin = self._token.at
        operand: Callable[[], Formula] = self._until if all_of else lambda: self._junction(True)
        parts = [operand()]
        while self._takes("and" if all_of else "or"):
            parts.append(operand())
        if len(parts) == 1:
            return parts[0]
        return self._noted(Junction(all_of, tuple(parts)), begin)

    def _until(self) -> Formula:
        begin = self._token.at
        left = self._prefixed()
        while self._token.text in UNTILS:
            past = UNTILS[self._take().text]
            window = self._window(past)
            left = self._noted(Until((left, self._prefixed()), window), begin)
        return left

    def _prefixed(self) -> Formula:
        token = self._token
        self._depth += 1
        if self._depth > DEEPEST:
            self._fail(f"at most {DEEPEST} operators within one another", token)
        if self._takes("not"):
            found: Formula = Not((self._prefixed(),))
        elif token.text in EXTREMES:
            all_of, past = EXTREMES[self._take().text]
            window = self._window(past)
            found = Extreme(all_of, (self._prefixed(),), window)
        elif self._takes("("):
            found = self._implication()
            self._expect(")")
        else:
            found = self._comparison()
        self._depth -= 1
        return self._noted(found, token.at)

    def _comparison(self) -> Formula:
        absolute = self._takes("abs")
        if absolute:
            self._expect("(")
        token = self._take()
        if token.kind != "word" or token.text in WORDS:
            self._fail("a signal, not, (, always, eventually, historically or once", token)
        if token.text not in self.signals:
            self._fail("one of the signals " + ", ".join(sorted(self.signals)), token)
        if absolute:
            self._expect(")")
        sign = self._take()
        if sign.kind != "sign":
            self._fail("<, <=, > or >=", sign)
        unit = self.signals[token.text]
        threshold_at = self._token
        threshold = scale = self._quantity(unit)
        if self._takes("scale"):
            threshold_at = self._token
            scale = self._quantity(unit)
        if scale == 0:
            mend = f"say what counts as much, such as scale 0.1 {unit}"
            self._fail("a threshold that is not 0, or a scale", threshold_at, mend)
        return Comparison(token.text, SIGNS[sign.text], threshold, abs(scale), absolute)  # type: ignore[arg-type]

    def _quantity(self, unit: str) -> float:
        """A number with a unit, in another unit."""
        number = self._number()
        token = self._token
        found = "1" if token.kind != "word" or token.text in WORDS else self._take().text
        base, factor = UNITS.get(unit, (unit, 1.0))
        same, own = UNITS.get(found, (found, 1.0))
        if same != base:
            self._fail(f"the unit {unit}", token, "convert the number, or take another signal")
        return number * own / factor

    def _window(self, past: bool) -> Window:
        if not self._takes("["):
            return Window(past)
        first = self._token
        low, unit = self._number(), self._time_unit()
        self._expect(",")
        high, second = self._number(), self._time_unit()
        if second is None:
            self._fail("a unit of time: s or ms", self._token, "write [0, 5 s]")
        self._expect("]")
        begin = math.ceil(low * (unit or second) / self.dt - 1e-6)
        end = math.floor(high * second / self.dt + 1e-6)
        if not 0 <= begin <= end <= LARGEST:
            mend = f"there is a sample every {self.dt:g} s"
            self._fail("0 or more, and not above the end, with a sample between", first, mend)
        return Window(past, begin, end)

    def _time_unit(self) -> float | None:
        if self._token.text not in ("s", "ms"):
            return None
        return UNITS[self._take().text][1]

    def _number(self) -> float:
        token = self._take()
        if token.kind != "number" or not math.isfinite(float(token.text)):
            self._fail("a number", token)
        return float(token.text)

    # Tokens.

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._token
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _takes(self, text: str) -> bool:
        if self._token.text != text:
            return False
        self._take()
        return True

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            self._fail(text, self._token)

    def _noted(self, formula: Formula, begin: int) -> Formula:
        """Note the text that a part came from."""
        end = self._tokens[self._next - 1]
        source = self.text[begin : end.at + len(end.text)]
        self.source[id(formula)] = " ".join(_uncommented(source).split())
        return formula

    def _split(self) -> list[Token]:
        if len(self.text) > LARGEST:
            self._fail(f"at most {LARGEST} characters", Token("", "more", 0))
        tokens, at = [], 0
        while at < len(self.text):
            found = TOKEN.match(self.text, at)
            if found is None:
                self._fail("a word, a number, or one of ()[],<>=", Token("", self.text[at], at))
            if found.lastgroup:
                tokens.append(Token(found.lastgroup, found.group(), at))
            at = found.end()
        return [*tokens, Token("end", "", len(self.text))]

    def _fail(self, expected: str, token: Token, mend: str = "correct the text") -> NoReturn:
        before = self.text[: token.at]
        line, column = before.count("\n") + 1, token.at - before.rfind("\n")
        where = f"specification, line {line}, column {column}"
        raise InputError([Violation(where, expected, token.text or "the end", mend)])
