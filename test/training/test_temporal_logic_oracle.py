"""Robustness against rtamt (arXiv 2005.11827) on random formulas, and gradients in torch."""

import numpy as np
import pytest
import torch

from robot_policies.temporal_logic import parse

rtamt = pytest.importorskip("rtamt", reason="its antlr4 needs Python 3.11")
SIGNALS = {"x": "1", "y": "1"}


def formula(generator, depth):
    """The same formula for this project and for rtamt, as text."""
    kind = generator.choice(["not", "and", "or", "implies", "window", "window", "until"])
    if depth == 0:
        return (("x < 0.5 scale 1", "(x < 0.5)"), ("y > -0.3 scale 1", "(y > -0.3)"))[
            generator.integers(2)
        ]
    ours, theirs = formula(generator, depth - 1)
    low = int(generator.integers(0, 4))
    high = low + int(generator.integers(0, 8))
    if kind == "not":
        return f"not ({ours})", f"(not({theirs}))"
    if kind == "window":
        word = generator.choice(["always", "eventually", "historically", "once"])
        return f"{word}[{low}, {high} s]({ours})", f"({word}[{low}:{high}]({theirs}))"
    more, others = formula(generator, depth - 1)
    if kind == "until":
        word = generator.choice(["until", "since"])
        return (
            f"({ours}) {word}[{low}, {high} s] ({more})",
            f"(({theirs}) {word}[{low}:{high}] ({others}))",
        )
    return f"({ours}) {kind} ({more})", f"(({theirs}) {kind} ({others}))"


def rtamt_robustness(text, trace):
    specification = rtamt.StlDiscreteTimeSpecification()
    specification.declare_var("x", "float")
    specification.declare_var("y", "float")
    specification.spec = text
    specification.parse()
    columns = {name: values.tolist() for name, values in trace.items()}
    found = specification.evaluate({"time": list(range(len(trace["x"])))} | columns)
    return np.array([value for _, value in found])


@pytest.mark.parametrize("seed", range(60))
def test_robustness_is_rtamts(seed):
    generator = np.random.default_rng(seed)
    ours, theirs = formula(generator, depth=int(generator.integers(1, 4)))
    trace = {"x": generator.random(40), "y": generator.normal(size=40)}
    expected = rtamt_robustness(theirs, trace)
    specification = parse(ours, SIGNALS, dt=1.0)
    np.testing.assert_allclose(specification.robustness(trace), expected, atol=1e-6)
    tensors = {name: torch.tensor(values) for name, values in trace.items()}
    np.testing.assert_allclose(specification.robustness(tensors), expected, atol=1e-6)


def test_training_can_follow_the_gradient():
    """From chunks that break the specification to ones that keep it, in a batch."""
    text = "always (x < 0.5) and eventually[0, 5 s](always[0, 2 s](x > 0.25)) and y < 1"
    specification = parse(text, SIGNALS, dt=1.0)
    torch.manual_seed(0)
    x = torch.randn(8, 12, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=0.05)
    for _ in range(300):
        found = specification.robustness({"x": x, "y": torch.zeros(8, 12)}, 1)[:, 0]
        optimiser.zero_grad()
        (-found.clamp(max=0.1)).sum().backward()
        optimiser.step()
    assert (found > 0).all()
