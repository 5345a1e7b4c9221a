"""The optimiser: fast where directions are ill-conditioned, and one network at a time."""

import torch

from sim.quadrotor.soap import Soap


def descend(optimiser, parameter, target, curvature, steps, rate):
    """Minimise a quadratic whose axes are turned against the parameter's."""
    for _ in range(steps):
        optimiser.zero_grad()
        loss = 0.5 * (curvature @ (parameter - target)).square().sum()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    return float(loss.detach())


def test_it_is_faster_than_adam_in_a_narrow_valley():
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    curvature = turned.T @ torch.diag(torch.logspace(-2, 1, 8)) @ turned
    target = torch.randn(8, 4, generator=generator)
    losses = []
    for make in (Soap, torch.optim.Adam):
        parameter = torch.zeros(8, 4, requires_grad=True)
        losses.append(descend(make([parameter]), parameter, target, curvature, 300, 0.05))
    assert losses[0] < losses[1] / 10


def test_stacked_networks_are_what_each_is_alone():
    start, gradients = torch.randn(3, 4, 4), torch.randn(7, 3, 4, 4)

    def run(rows):
        parameter = start[rows].clone().requires_grad_()
        optimiser = Soap([parameter])
        optimiser.param_groups[0]["lr"] = 0.1
        for gradient in gradients:
            parameter.grad = gradient[rows].clone()
            optimiser.step()
        return parameter.detach()

    together = run(slice(None))
    for index in range(3):
        torch.testing.assert_close(together[index], run(index), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_goes_on_where_it_was(tmp_path):
    gradients = torch.randn(6, 4, 3)
    parameters = [torch.zeros(4, 3, requires_grad=True) for _ in range(2)]
    first, second = (Soap([parameter]) for parameter in parameters)
    for index, gradient in enumerate(gradients):
        if index == 3:
            torch.save(first.state_dict(), tmp_path / "state.pt")
            second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            parameters[1].data.copy_(parameters[0].data)
        for optimiser, parameter in ((first, parameters[0]), (second, parameters[1])):
            optimiser.param_groups[0]["lr"] = 0.1
            parameter.grad = gradient.clone()
            if index >= 3 or optimiser is first:
                optimiser.step()
    torch.testing.assert_close(parameters[1], parameters[0], rtol=0, atol=0)
