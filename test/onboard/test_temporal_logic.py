"""Signal temporal logic: text, robustness of traces, and the monitor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_policies.strict import InputError
from robot_policies.temporal_logic import parse, read

SIGNALS = {"tilt": "rad", "position_error": "m", "x": "1", "y": "1"}
HOVER = """
    always (tilt < 0.6 rad)                     # never near upside down
    and eventually[0, 0.5 s](always[0, 0.1 s](position_error < 0.1 m))
"""


def test_robustness_is_the_margin_in_shares_of_the_threshold():
    specification = parse("always (tilt < 0.5 rad)", SIGNALS, dt=0.1)
    trace = {"tilt": np.array([[0.1, 0.4, 0.2], [0.1, 0.6, 0.7]])}
    np.testing.assert_allclose(
        specification.robustness(trace), [[0.2, 0.2, 0.6], [-0.4, -0.4, -0.4]]
    )


def test_arriving_and_staying():
    specification = parse(HOVER, SIGNALS, dt=0.1)
    error = np.array([0.5, 0.3, 0.09, 0.05, 0.3, 0.3, 0.3, 0.3])
    trace = {"tilt": np.full(8, 0.3), "position_error": error}
    assert specification.robustness(trace)[0] == pytest.approx(0.1)  # 9 cm, of 10
    left = {**trace, "position_error": np.where(error == 0.05, 0.11, error)}
    assert specification.robustness(left)[0] == pytest.approx(-0.1)  # one step is no stay
    assert specification.horizon_s == pytest.approx(0.6)


def test_the_worst_clause_is_named():
    specification = parse(HOVER, SIGNALS, dt=0.1)
    trace = {"tilt": np.full((1, 8), 0.5), "position_error": np.full((1, 8), 0.2)}
    robustness, clause = specification.worst_clause(trace)
    assert robustness == pytest.approx([-1.0])
    text = specification.clauses[clause[0]].text
    assert text == "eventually[0, 0.5 s](always[0, 0.1 s](position_error < 0.1 m))"


def test_windows_include_both_ends():
    trace = {"x": np.array([0.0, 0.0, 1.0, 0.0])}
    for window, reached in (("[0, 1 s]", False), ("[0, 2 s]", True), ("[2, 3 s]", True)):
        specification = parse(f"eventually{window} (x > 0.5)", SIGNALS, dt=1.0)
        assert (specification.robustness(trace)[0] > 0) == reached


def test_units_are_converted():
    in_degrees = parse("abs(tilt) < 90 deg", SIGNALS, dt=1.0)
    in_radians = parse("abs(tilt) < 1.5707963267948966 rad", SIGNALS, dt=1.0)
    assert in_degrees.formula == in_radians.formula
    assert parse("once[0, 200 ms] x > 1", SIGNALS, dt=0.1) is not None


def test_implies_binds_last_and_not_first():
    specification = parse("not x > 0.5 and y > 0.5 implies y > 0.25 or x > 2", SIGNALS, dt=1.0)
    trace = {"x": np.array([0.0, 1.0]), "y": np.array([1.0, 0.0])}
    same = parse(
        "((not (x > 0.5)) and (y > 0.5)) implies ((y > 0.25) or (x > 2))", SIGNALS, dt=1.0
    )
    np.testing.assert_array_equal(specification.robustness(trace), same.robustness(trace))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("always (tilt < 0.6 m)", "line 1, column 20: expected the unit rad, found m"),
        ("always (tilt < 0.6)", "expected the unit rad, found )"),
        ("always (roll < 0.6 rad)", "one of the signals position_error, tilt, x, y, found roll"),
        ("x > 1 and\n  y >", "line 2, column 6: expected a number, found the end"),
        ("eventually[0, 5](x > 1)", "expected a unit of time: s or ms"),
        ("eventually[2, 1 s](x > 1)", "expected 0 or more, and not above the end"),
        ("eventually[0.02, 0.03 s](x > 1)", "there is a sample every 0.1 s"),
        ("position_error > 0 m", "such as scale 0.1 m"),
        ("(x > 1) x < 2", "expected and, or, implies, until, since, or the end, found x"),
        ("x > 1 or (y < 2", "expected ), found the end"),
        ("x = 1", "expected a word, a number, or one of"),
        ("and x > 1", "expected a signal"),
        ("not " * 100 + "x > 1", "at most 50 operators"),
        ("", "expected a signal"),
    ],
)
def test_what_is_no_specification_is_refused_with_its_place(text, told):
    with pytest.raises(InputError) as refused:
        parse(text, SIGNALS, dt=0.1)
    assert told in str(refused.value)


def test_traces_that_do_not_fit_are_refused():
    specification = parse("tilt < 1 rad and x < 1", SIGNALS, dt=1.0)
    with pytest.raises(InputError, match=r"signal x: expected .*found no such signal"):
        specification.robustness({"tilt": np.zeros(3)})
    with pytest.raises(InputError, match="as the others, found"):
        specification.robustness({"tilt": np.zeros(3), "x": np.zeros(4)})
    with pytest.raises(InputError, match="signal x: expected finite numbers"):
        specification.robustness({"tilt": np.zeros(2), "x": np.array([0, np.nan])})


def test_a_sample_that_is_not_finite_is_refused_and_not_taken():
    monitor = parse("historically (x < 1)", SIGNALS, dt=1.0).monitor()
    assert monitor.update({"x": 0.5}) == pytest.approx(0.5)
    with pytest.raises(InputError, match="signal x: expected a finite number"):
        monitor.update({"x": float("nan")})
    assert monitor.update({"x": 0.25}) == pytest.approx(0.5)
    monitor.reset()
    assert monitor.update({"x": 0.25}) == pytest.approx(0.75)


def test_open_ended_the_monitor_tells_the_worst_so_far():
    monitor = parse("always (x < 1) and eventually (y > 1)", SIGNALS, dt=1.0).monitor()
    told = [monitor.update({"x": x, "y": y}) for x, y in ((0.5, 0), (0.2, 3), (2.0, 0))]
    assert told == pytest.approx([-1, 0.5, -1])
    with pytest.raises(InputError, match="always: expected an end"):
        parse("eventually[0, 1 s] always (x < 1)", SIGNALS, dt=1.0).monitor()


def test_a_file_is_read_or_named(tmp_path):
    (tmp_path / "hover.stl").write_text(HOVER)
    assert read(tmp_path / "hover.stl", SIGNALS, 0.1) == parse(HOVER, SIGNALS, 0.1)
    with pytest.raises(InputError, match=r"none\.stl: expected a specification"):
        read(tmp_path / "none.stl", SIGNALS, 0.1)


# Random formulas against the definition, and the monitor against whole traces.

windows = st.tuples(st.integers(0, 3), st.integers(0, 6)).map(lambda w: f"[{w[0]}, {sum(w)} s]")
comparisons = st.sampled_from(["x < 0.5 scale 1", "x > 0.3 scale 2", "abs(y) < 0.4 scale 1"])


def _composed(part):
    unary = st.sampled_from(["always", "eventually", "historically", "once"])
    return st.one_of(
        part.map("not ({})".format),
        st.tuples(part, st.sampled_from(["and", "or", "implies"]), part).map(_infix),
        st.tuples(unary, windows, part).map(lambda p: f"{p[0]}{p[1]}({p[2]})"),
        st.tuples(part, st.sampled_from(["until", "since"]), windows, part).map(
            lambda p: f"({p[0]}) {p[1]}{p[2]} ({p[3]})"
        ),
    )


def _infix(parts):
    return "({}) {} ({})".format(*parts)


formulas = st.recursive(comparisons, _composed, max_leaves=6)


@settings(max_examples=200, deadline=None)
@given(formulas, st.integers(0, 2**32 - 1))
def test_robustness_is_that_of_the_definition(text, seed):
    specification = parse(text, SIGNALS, dt=1.0)
    trace = _random_trace(seed)
    expected = [_defined(specification.formula, trace, t) for t in range(len(trace["x"]))]
    np.testing.assert_allclose(specification.robustness(trace), expected, atol=1e-12)
    for times in (1, 5):
        first = specification.robustness(trace, times)
        np.testing.assert_allclose(first, expected[:times], atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(formulas, st.integers(0, 2**32 - 1))
def test_the_monitor_tells_what_whole_traces_do_as_soon_as_it_is_known(text, seed):
    specification = parse(text, SIGNALS, dt=1.0)
    trace = _random_trace(seed)
    whole = specification.robustness(trace)
    monitor, late = specification.monitor(), round(specification.horizon_s)
    for t in range(len(whole)):
        told = monitor.update({name: values[t] for name, values in trace.items()})
        assert told == (None if t < late else pytest.approx(whole[t - late], abs=1e-12))


def _random_trace(seed, length=24):
    generator = np.random.default_rng(seed)
    return {"x": generator.random(length), "y": generator.normal(size=length)}


def _defined(formula, trace, t):
    """Robustness at time t, straight from the definition, one sample at a time."""
    children = getattr(formula, "children", ())
    kind = type(formula).__name__
    if kind == "Comparison":
        value = trace[formula.signal][t]
        value = abs(value) if formula.absolute else value
        return formula.sign * (value - formula.threshold) / formula.scale
    if kind == "Not":
        return -_defined(children[0], trace, t)
    if kind == "Junction":
        return (min if formula.all else max)(_defined(child, trace, t) for child in children)
    way = -1 if formula.window.past else 1
    window = range(formula.window.begin, formula.window.end + 1)
    times = [t + way * k for k in window if 0 <= t + way * k < len(trace["x"])]
    if kind == "Extreme":
        found = [_defined(children[0], trace, u) for u in times]
        return min(found, default=np.inf) if formula.all else max(found, default=-np.inf)
    return max(
        (
            min([_defined(children[1], trace, u)]
                + [_defined(children[0], trace, v) for v in range(t, u, way)])
            for u in times
        ),
        default=-np.inf,
    )  # fmt: skip
