"""SOAP, the optimiser of all networks here: Adam in the eigenbasis of Shampoo's preconditioner.

Source: arXiv 2409.11321. The directions in which a recurrent network learns to remember a constant
force are ill-conditioned, and in networks as small as these few enough to be found. What that
gains over Adam: benchmarks/quadrotor_optimiser.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.99)
"""Decay of the mean of the gradient and of its square, in the eigenbasis."""
FACTOR_BETA = 0.95
"""Decay of the two factors, whose eigenvectors are the basis."""
REFRESH = 5
"""Iterations between two computations of the basis."""
_EPSILON = 1e-8


class Soap(torch.optim.Optimizer):
    """Every parameter is a matrix [..., m, n]; leading axes count independent networks."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """Begin; the learning rate is 0 until it is set in `param_groups`."""
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Go one step down the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    parameter -= group["lr"] * _direction(parameter.grad, state)


def _direction(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Adam's step in the eigenbasis, turned back; updates `state`."""
    if not state:
        state |= _fresh(gradient)
    count, transposed = state["count"], gradient.mT
    state["left"].lerp_(gradient @ transposed, 1 - FACTOR_BETA)
    state["right"].lerp_(transposed @ gradient, 1 - FACTOR_BETA)
    if count % REFRESH == 0:
        for side in ("left", "right"):
            basis = f"{side}_basis"
            state[basis] = _follow(state[side], state[basis])
    left, right = state["left_basis"], state["right_basis"]
    state["mean"].lerp_(gradient, 1 - BETAS[0])
    state["square"].lerp_((left.mT @ gradient @ right).square(), 1 - BETAS[1])
    state["count"] = count = count + 1
    mean = left.mT @ state["mean"] @ right / (1 - BETAS[0] ** count)
    spread = (state["square"] / (1 - BETAS[1] ** count)).sqrt()
    return left @ (mean / (spread + _EPSILON)) @ right.mT


def _fresh(gradient: Tensor) -> dict[str, Any]:
    rows, columns = gradient.shape[-2:]
    zeros = gradient.new_zeros
    return {
        "count": 0,
        "left": zeros(*gradient.shape[:-2], rows, rows),
        "right": zeros(*gradient.shape[:-2], columns, columns),
        "left_basis": torch.eye(rows).expand(*gradient.shape[:-2], -1, -1),
        "right_basis": torch.eye(columns).expand(*gradient.shape[:-2], -1, -1),
        "mean": torch.zeros_like(gradient),
        "square": torch.zeros_like(gradient),
    }


def _follow(factor: Tensor, basis: Tensor) -> Tensor:
    """The eigenvectors of a symmetric matrix by one step of orthogonal iteration from `basis`.

    A new basis each time would put the squares of one direction to another.
    """
    return torch.linalg.qr(factor.double() @ basis.double())[0].to(factor.dtype)
