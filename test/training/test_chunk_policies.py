"""Policies that predict chunks: gradients, samplers, two modes, and their graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robot_policies.bundle import PolicyBundle
from robot_policies.contract import (
    SCHEMA_VERSION,
    Action,
    Chunk,
    Contract,
    Conventions,
    Noise,
    Observation,
    Refinement,
    Robot,
    Sampler,
    Timing,
)
from robot_policies.export import export, record_random, save_checkpoint, to_graphs
from robot_policies.graph import Source, provenance, stamp
from robot_policies.models.chunk import ChunkPolicy
from robot_policies.models.diffusion import DiffusionPolicy, ddim_rows, ddpm_rows, kept_shares
from robot_policies.models.energy import EnergyPolicy
from robot_policies.models.families import build
from robot_policies.models.trunk import Attention, Block, FeedForward, Norm, Sizes, Trunk
from robot_policies.runtime import OnnxPolicy, load_policy
from robot_policies.strict import ContractError
from robot_policies.verify import verify

SIZES = Sizes(2, 5, 8, 3, patch=4, width=32, layers=2, heads=4)
FAMILIES = {
    "energy": {}, "diffusion": {}, "flow": {}, "cloning": {},
    "unet": {"backbone": "unet"}, "ebt": {"objective": "ebt"},
}  # fmt: skip

EXPORTED = ("energy", "diffusion", "flow", "cloning", "unet")


def make(kind: str, sizes: Sizes = SIZES, seed: int = 0) -> ChunkPolicy:
    """A policy with random weights and normalisers, as no training would leave them."""
    torch.manual_seed(seed)
    family = {"unet": "diffusion", "ebt": "energy"}.get(kind, kind)
    policy = build(family, {"sizes": vars(sizes), "execution_steps": 4, **FAMILIES[kind]})
    assert isinstance(policy, ChunkPolicy)
    if isinstance(policy, EnergyPolicy):
        policy.trunk.head.weight.data *= 0.2  # or descent diverges, and no two machines agree
    size, actions = sizes.observation_size, sizes.action_size
    policy.reference[0, 0] = 1.0
    policy.normalise_by(
        torch.randn(size) + (0.5 + torch.rand(size)) * torch.randn(100, size),
        torch.randn(actions) + (0.5 + torch.rand(actions)) * torch.randn(100, actions),
    )
    return policy.eval()


def contract_for(policy: ChunkPolicy, family: str) -> Contract:
    sizes, samplers = policy.sizes, policy.samplers()
    motors = tuple(f"m{i}" for i in range(sizes.action_size))
    seen = tuple(f"s{i}" for i in range(sizes.observation_size))
    ones = (1.0,) * len(motors)
    return Contract(
        schema_version=SCHEMA_VERSION, name="test", family=family, robot=Robot("r", (), motors),
        observation=(
            Observation("state", "robot", (len(seen),), "m", "world", seen, 2, None),
        ),
        action=(
            Action("push", (len(motors),), "N", "actuator", motors, ones, (0.0,) * len(motors),
                   (-9.0,) * len(motors), (9.0,) * len(motors), "absolute"),
        ),
        chunk=Chunk(policy.execution_steps, 0.02), conventions=Conventions(),
        timing=Timing(50.0, 0.1, 0.02), state=(),
        noise=(Noise("sample", policy.shape),) if samplers else (), feature="feature", gains=None,
        tolerance=1e-4, provenance=provenance("a test", "MIT", (0,), ""), calibration=None,
        refinement=Refinement(policy.shape, policy.columns, policy.told, samplers)
        if samplers else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported() -> dict[str, tuple[ChunkPolicy, PolicyBundle]]:
    """Each kind's policy, and its graphs."""
    found = {}
    for kind in EXPORTED:
        policy = make(kind)
        contract = contract_for(policy, {"unet": "diffusion"}.get(kind, kind))
        graphs = to_graphs(policy, contract)
        content = {name: stamp(graph, contract) for name, graph in graphs.items()}
        found[kind] = (policy, PolicyBundle(None, contract, {}, content))
    return found


# The energy's gradient.


def blocks() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Every block that has a hand-written vector-Jacobian product, and its inputs."""
    torch.manual_seed(1)
    tokens, context = torch.randn(3, 2, 32), torch.randn(3, 2, 2, 32)
    trunk = Trunk(SIZES)
    return {
        "norm": (Norm(32), (tokens,)),
        "feedforward": (FeedForward(32, 64), (tokens,)),
        "attention": (Attention(32, 4), (tokens, context)),
        "block": (Block(32, 4, 64), (tokens, context)),
        "trunk": (trunk, (torch.randn(3, 8, 3), torch.randn(3, SIZES.context))),
    }


@pytest.mark.parametrize("name", blocks())
def test_a_hand_written_product_is_that_of_autograd(name):
    block, (x, *others) = blocks()[name]
    block, x = block.double(), x.double().requires_grad_()
    for parameter in block.parameters():  # gains of one and zero biases would hide mistakes
        nn.init.normal_(parameter, std=0.3)
    others = [other.double() for other in others]
    output, pull = block.with_pull(x, *others)
    w = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, x, w)
    assert torch.allclose(output, block(x, *others), atol=1e-12)
    assert torch.allclose(pull(w), expected, atol=1e-10)


def test_the_gradient_of_the_energy_is_exact():
    policy = make("energy").double()
    context, _ = policy.look(torch.randn(4, 2, 5, dtype=torch.float64))
    sample = torch.randn(4, 8, 3, dtype=torch.float64, requires_grad=True)
    energy, gradient = policy.energy(context, sample)
    assert torch.allclose(gradient, torch.autograd.grad(energy.sum(), sample)[0], atol=1e-10)


# Samplers.


def clipped_to_one(policy: ChunkPolicy) -> ChunkPolicy:
    """As diffusers' schedulers clip, which know no data."""
    policy.sample_low.fill_(-1.0)
    policy.sample_high.fill_(1.0)
    return policy


@pytest.mark.parametrize("steps", [5, 10])
def test_ddim_is_that_of_diffusers(steps):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    theirs = DDIMScheduler(
        100, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing",
        prediction_type="v_prediction",
    )  # fmt: skip
    theirs.set_timesteps(steps)
    policy = clipped_to_one(make("diffusion"))
    context, _ = policy.look(torch.randn(3, 2, 5))
    sample = mine = torch.randn(3, 8, 3)
    with torch.no_grad():
        for level, row in zip(theirs.timesteps, ddim_rows(steps), strict=True):
            velocity = policy.predict(context, sample, (level / 100).expand(3, 1))
            sample = theirs.step(velocity, level, sample).prev_sample
            schedule = torch.tensor(row).expand(3, -1)
            (mine,) = policy.refine(context, mine, schedule, torch.zeros_like(mine))
    assert torch.allclose(mine, sample, atol=1e-5)


def test_ddpm_is_that_of_diffusers():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    policy = clipped_to_one(make("diffusion"))
    context, _ = policy.look(torch.randn(3, 2, 5))
    for level, row in zip(reversed(range(100)), ddpm_rows(), strict=True):
        sample = torch.randn(3, 8, 3)
        velocity = policy.predict(context, sample, torch.full((3, 1), level / 100))
        generator = torch.Generator().manual_seed(level)
        expected = theirs.step(velocity, level, sample, generator=generator).prev_sample
        fresh = torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(level))
        schedule = torch.tensor(row).expand(3, -1)
        (found,) = policy.refine(context, sample, schedule, fresh)
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_schedule_begins_at_pure_noise():
    assert next(iter(ddim_rows(10)))[0] == 0.99
    assert kept_shares()[-1] < 1e-4


# Two modes: chunks of nothing but +1 or nothing but -1, whatever is seen.

MODES = Sizes(1, 1, 4, 1, patch=2, width=32, layers=1, heads=2)


def share_at_modes(kind: str, sampler: str, steps: int = 500) -> tuple[float, float]:
    """Share of samples that commit to a mode, and that of the rarer mode among them."""
    policy = make(kind, MODES)
    policy.normalise_by(torch.tensor([[-1.0], [1.0]]), torch.tensor([[-1.0], [1.0]]))
    optimiser = torch.optim.AdamW(policy.train().parameters(), lr=3e-3)
    for _ in range(steps):
        sign = torch.randint(2, (128, 1, 1)) * 2.0 - 1.0
        loss = policy.loss(torch.zeros(128, 1, 1), sign.expand(-1, 4, -1), torch.ones(128, 4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    way = next(found for found in policy.samplers() if found.name == sampler)
    noise = policy.noise_for(way, 1000, torch.Generator().manual_seed(0))
    chunk = policy.eval().generate(torch.zeros(1000, 1, 1), way, noise).sample
    mean = chunk.mean((1, 2))
    near = (chunk - mean.sign()[:, None, None]).abs().amax((1, 2)) < 0.4
    right = (near & (mean > 0)).sum() / near.sum().clamp(min=1)
    return near.float().mean().item(), min(right, 1 - right).item()


@pytest.mark.parametrize(
    ("kind", "sampler"), [("energy", "four-steps"), ("diffusion", "ddim-10"), ("flow", "flow-4")]
)
def test_two_modes_are_kept(kind, sampler):
    committed, rarer = share_at_modes(kind, sampler)
    assert committed > 0.85
    assert rarer > 0.2


def test_the_published_objective_collapses_to_the_mean():
    """Its noise tells nothing of the target: between two modes it goes where no mode is."""
    committed, _ = share_at_modes("ebt", "four-steps")
    assert committed < 0.1


# Graphs.


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("kind", EXPORTED)
def test_the_graphs_do_what_torch_does(exported, kind, batch):
    policy, bundle = exported[kind]
    generator = torch.Generator().manual_seed(batch)
    seen = policy.measured(torch.randn(batch, 2, 5, generator=generator))
    for sampler in policy.samplers() or (None,):
        name = None if sampler is None else sampler.name
        onboard = OnnxPolicy(bundle, name)
        onboard.reset(batch, seed=3)
        onboard.step({"state": seen[:, 0].numpy()})
        onboard.step({"state": seen[:, 1].numpy()})
        told = onboard.last
        if sampler is None:
            expected = policy(seen)[0].detach()
        else:
            noise = [torch.from_numpy(n) for n in onboard._noise.values()]
            chunk = policy.generate(seen, sampler, noise)
            expected = chunk.action
            assert (told.iterations == chunk.iterations.numpy()).all()
            for key, value in chunk.told.items():
                np.testing.assert_allclose(told.told[key], value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(told.raw_action, expected, rtol=1e-5, atol=1e-5)


def test_each_robot_stops_for_itself(exported):
    policy, _ = exported["energy"]
    assert isinstance(policy, EnergyPolicy)
    seen = policy.measured(torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(0)))
    noise = torch.randn(8, *policy.shape, generator=torch.Generator().manual_seed(1))
    steps = ((0.1,),) * 30
    norms = policy.generate(seen, Sampler("short", steps[:6], False, None), [noise]).told
    middle = float(norms["gradient_norm"].median())
    chunk = policy.generate(seen, Sampler("stops", steps, False, middle), [noise])
    assert 1 <= chunk.iterations.min() < chunk.iterations.max()
    alone = policy.generate(seen[:1], Sampler("stops", steps, False, middle), [noise[:1]])
    assert torch.allclose(alone.sample, chunk.sample[:1], atol=1e-5)


def test_a_chunk_is_played_step_by_step(exported):
    policy, bundle = exported["flow"]
    onboard = OnnxPolicy(bundle)
    seen = {"state": policy.measured(torch.randn(1, 5)).numpy()}
    played = [onboard.act(seen)["push"] for _ in range(4)]
    assert np.array_equal(np.stack(played, axis=1)[0], onboard.last.raw_action[0])
    before = onboard.last.raw_action
    onboard.act(seen)
    assert not np.array_equal(onboard.last.raw_action, before)


def test_an_unknown_sampler_is_refused(exported):
    with pytest.raises(ContractError, match="one of two-steps, four-steps, scored, adaptive"):
        OnnxPolicy(exported["energy"][1], "ddim-10")
    with pytest.raises(ContractError, match="none: one graph gives the action at once"):
        OnnxPolicy(exported["cloning"][1], "two-steps")


def test_a_bundle_is_written_verified_and_loaded(tmp_path):
    policy = make("energy")
    contract = contract_for(policy, "energy")
    golden = record_random(policy, contract, 0)
    export(policy, contract, golden, Source({}, "a card"), tmp_path / "b")
    assert verify(tmp_path / "b", latency=False).ok
    assert load_policy(tmp_path / "b", sampler="scored").sampler.name == "scored"
    sizes = {"sizes": vars(SIZES), "execution_steps": 4}
    save_checkpoint(tmp_path / "c.pt", policy, sizes, contract, {})
    assert (tmp_path / "c.pt").is_file()


def test_an_operator_that_onnx_has_not_is_named_with_its_module():
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.airy_ai(x)

    policy = make("diffusion")
    assert isinstance(policy, DiffusionPolicy)
    policy.time = nn.Sequential(policy.time, Odd())
    with pytest.raises(
        ContractError, match=r"module .*time\.1 \(Odd\).* found aten\.special_airy"
    ):
        to_graphs(policy, contract_for(policy, "diffusion"))


def test_a_number_that_never_changes_is_ignored_and_an_action_that_never_changes_is_given():
    policy = make("flow")
    observations, actions = torch.randn(9, 5), torch.randn(9, 3)
    observations[:, 1], actions[:, 1] = 1.0, 2.0
    policy.normalise_by(observations, actions)
    assert policy.seen(torch.full((1, 2, 5), 7.0))[0, 0, 1] == 0
    assert policy.action(torch.randn(1, 8, 3), torch.zeros(1, 3))[0, :, 1].eq(2.0).all()


def test_actions_are_standardised_and_clipped_to_the_data():
    actions = torch.tensor([1.0, -2.0, 0.0]) + 0.1 * torch.randn(1000, 3)
    observations = torch.randn(1000, 5)
    policy = make("diffusion")
    policy.normalise_by(observations, actions)
    sample = policy.normalised(actions[:, None], torch.zeros(1000, 2, 5))
    assert sample.flatten(0, 1).std(0) == pytest.approx([1.0] * 3, abs=1e-3)
    assert torch.allclose(sample.amax((0, 1)), policy.sample_high)
    assert torch.allclose(sample.amin((0, 1)), policy.sample_low)
