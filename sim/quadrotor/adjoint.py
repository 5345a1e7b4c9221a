"""Horizons of flight that are differentiated by hand: faster than autograd, in less memory.

What each step began from is kept. A compiled adjoint is driven backwards over it, which computes
its step again: that is cheaper than autograd's writing and reading 1.6 kB a flight and step. Steps
take few, packed tensors and are compiled without torch.compile's checks of its inputs, which cost
100 us and more a call, as much as the dynamics of a thousand quadrotors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

from sim.quadrotor.environment import Flight, World
from sim.quadrotor.networks import Weights

Step = Callable[[Weights, Flight, World, Tensor, Tensor], tuple[Flight, Tensor, Tensor, Tensor]]
"""(weights, flight, world, noise, cost weights) -> flight, cost [N], reward [N], ended [N]."""

# The pattern matcher would join every product with its bias: addmm copies the bias first.
_OPTIONS = {"pattern_matcher": False, "cpp.enable_floating_point_contract_flag": "fast"}
_TINY = 1e-30


def lower(
    function: Callable[..., list[Tensor]], examples: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """`function` of tensors, compiled for tensors laid out as `examples` and for no others.

    Nothing checks that later ones are. Its own derivatives are traced with it.
    """
    traced = make_fx(function)(*examples)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    compiled: Any = torch._inductor.compile(traced, list(examples), options=_OPTIONS)
    return compiled


class Layout:
    """Trees of tensors [..., N] like `example` as one tensor [rows, N], and back."""

    def __init__(self, example: Any) -> None:
        """Remember the shapes."""
        leaves, self._tree = _pytree.tree_flatten(example)
        self._shapes = [leaf.shape for leaf in leaves]
        self._rows = [leaf.shape[:-1].numel() for leaf in leaves]

    def pack(self, tree: Any) -> Tensor:
        """[rows, N], the leaves below each other."""
        leaves = _pytree.tree_leaves(tree)
        return torch.cat([x.reshape(n, -1) for x, n in zip(leaves, self._rows, strict=True)])

    def unpack(self, packed: Tensor) -> Any:
        """The tree, as views."""
        parts = zip(packed.split(self._rows), self._shapes, strict=True)
        return _pytree.tree_unflatten([x.reshape(shape) for x, shape in parts], self._tree)


class Reversible:
    """A step that is flown forwards through a horizon, and backwards through its gradient."""

    def __init__(self, step: Step, start: Flight, world: World) -> None:
        """Take the shapes from `start` and `world`; the first horizon compiles, in a minute."""
        self._step = step
        self._flight, self._world = Layout(start), Layout(world)
        self._forwards: Callable[..., Sequence[Tensor]] | None = None
        self._backwards: Callable[..., Sequence[Tensor]] | None = None

    def fly(
        self, weights: Weights, start: Flight, world: World, noises: Sequence[Tensor],
        terms: Tensor, bound: float,
    ) -> tuple[Flight, Tensor, Tensor, Tensor]:  # fmt: skip
        """One step for each of `noises` [15, N] from `start`.

        bound: longest gradient of a flight's cost with respect to what a step began from. Through
        a hundred steps of an unstable system some explode, and a few would drown all others; a
        longer one is scaled back to it, in every step, which leaves the others as they are.

        Returns the last flight, and cost [N], reward [N] until an end, and alive [N] bool. The
        cost has a gradient with respect to `weights` and to `start`.
        """
        # A tensor, so that stages that differ in it share what is compiled.
        fixed = (self._world.pack(world), noises, terms, torch.tensor(bound))
        paid, flight, tally = _Horizon.apply(self, fixed, self._flight.pack(start), *weights)
        return self._flight.unpack(flight), paid, tally[1], tally[2] > 0

    def advance(self, fixed: Any, flight: Tensor, weights: Weights) -> tuple[list[Tensor], Tensor]:
        """All flights [rows, N] of a horizon, and cost, reward and alive [3, N] at its end."""
        world, noises, terms, _ = fixed
        tally = flight.new_tensor([[0.0], [0.0], [1.0]]).repeat(1, flight.shape[1])
        flights = [flight]
        for noise in noises:
            arguments = (*weights, world, flights[-1], tally, noise, terms)
            self._forwards = self._forwards or lower(self._forward, arguments)
            flight, tally = self._forwards(*arguments)
            flights.append(flight)
        return flights, tally

    def retreat(
        self, fixed: Any, flights: list[Tensor], weights: Weights, price: Tensor
    ) -> list[Tensor]:
        """Gradients with respect to the start [rows, N] and the weights, of price [N] * cost."""
        world, noises, terms, bound = fixed
        gradients = [torch.zeros_like(x) for x in (flights[-1], *weights)]
        for flight, noise in zip(reversed(flights[:-1]), reversed(noises), strict=True):
            arguments = (*gradients, *weights, world, flight, noise, terms, price, bound)
            self._backwards = self._backwards or lower(self._backward, arguments)
            gradients = list(self._backwards(*arguments))
        return gradients

    def _forward(self, *tensors: Tensor) -> list[Tensor]:
        *weights, world, flight, tally, noise, terms = tensors
        before, place = self._flight.unpack(flight), self._world.unpack(world)
        after, price, income, over = self._step(tuple(weights), before, place, noise, terms)
        paid, earned, alive = tally.unbind()
        # Beyond its end a flight pays on: that, not the end itself, has a gradient.
        rows = (paid + price, torch.where(alive > 0, earned + income, earned),
                torch.where(over, 0, alive))  # fmt: skip
        return [self._flight.pack(after), torch.stack(rows)]

    def _backward(self, *tensors: Tensor) -> list[Tensor]:
        """From the gradients behind a step to those before it."""
        adjoint, *both, world, flight, noise, terms, price, bound = tensors
        count = len(both) // 2
        inputs = [x.detach().requires_grad_() for x in both[count:]]
        before = _pytree.tree_map(
            lambda x: x.detach().requires_grad_(), self._flight.unpack(flight)
        )
        with torch.enable_grad():
            # The reference moves by itself.
            flying = replace(before, reference=before.reference.detach())
            place = self._world.unpack(world)
            after, paid, _, _ = self._step(tuple(inputs), flying, place, noise, terms)
        seeds = _pytree.tree_leaves(self._flight.unpack(adjoint))
        reached = zip((paid, *_pytree.tree_leaves(after)), (price, *seeds), strict=True)
        outputs, seeded = zip(*((x, seed) for x, seed in reached if x.requires_grad), strict=True)
        gradients = torch.autograd.grad(
            outputs, [*inputs, *_pytree.tree_leaves(before)], seeded, materialize_grads=True
        )
        totals = [x + y for x, y in zip(both[:count], gradients[:count], strict=True)]
        earlier = self._flight.pack(gradients[count:])
        length = torch.linalg.vector_norm(earlier, dim=0)
        return [earlier * (bound * price.abs() / (length + _TINY)).clamp(max=1), *totals]


class _Horizon(torch.autograd.Function):
    """Shows a horizon to autograd as one operation."""

    @staticmethod
    def forward(
        ctx: Any, course: Reversible, fixed: Any, start: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = tuple(w.detach() for w in weights)
        flights, tally = course.advance(fixed, start.detach(), weights)
        ctx.kept = (course, fixed, flights, weights)
        ctx.mark_non_differentiable(flights[-1], tally)
        return tally[0].clone(), flights[-1], tally

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, price: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        course, fixed, flights, weights = ctx.kept
        return None, None, *course.retreat(fixed, flights, weights, price.contiguous())
