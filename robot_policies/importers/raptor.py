"""RAPTOR, the authors' pretrained quadrotor policy, from the installed `foundation-policy`.

The checkpoint (MIT licence) is read from the package and never copied into this project. The
golden run is the authors' own example, so the bundle is checked against THEIR numbers.
Sources: arXiv 2509.11481; PX4's module mc_raptor for the clip ranges and stale limits.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

import h5py
import numpy as np
import torch

from robot_policies.bundle import Golden, PolicyBundle, refuse_overwrite
from robot_policies.contract import Contract
from robot_policies.export import export, record
from robot_policies.graph import Source, model_card, provenance
from robot_policies.models.foundation import FoundationPolicy, quadrotor_contract
from robot_policies.strict import ContractError, InputError, Violation

GOLDEN_STEPS = 64
SIZES = {"observation_size": 22, "hidden_size": 16, "action_size": 4}
ABOUT = """\
RAPTOR, a recurrent policy of 2,084 parameters that flies any quadrotor: it identifies the airframe
in its hidden state while it flies. Weights by the authors, from the PyPI package
foundation-policy {version} (MIT licence), unchanged; the graph is checked against the example run
that their checkpoint carries. Paper: arXiv 2509.11481.

Position and velocity errors are limited to +-0.5 m and +-1 m/s before the network, as PX4's
mc_raptor does: larger ones were not seen in training. The network expects to be stepped at 100 Hz,
neither faster nor slower."""


def import_raptor(path: str | Path, *, replace: bool = False) -> PolicyBundle:
    """Make a bundle of the installed RAPTOR checkpoint.

    Raises:
        ContractError: the package is missing, or its checkpoint is not as expected.
        FileExistsError: the path exists and `replace` is False.
    """
    refuse_overwrite(path, replace)
    checkpoint = checkpoint_path()
    network, observation, action = load_checkpoint(checkpoint)
    data = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    version = metadata.version("foundation-policy")
    source = f"PyPI foundation-policy {version}, blob/checkpoint.h5"
    contract = raptor_contract(network, source, data)
    golden = _golden(network, contract, observation, action)
    about = ABOUT.format(version=version)
    card = model_card(contract, "robot-policies import raptor", about)
    training = {"imported_from": source, "sha256": data, "paper": "arXiv 2509.11481"}
    return export(network, contract, golden, Source(training, card), path, replace=replace)


def checkpoint_path() -> Path:
    """Where the installed package keeps its checkpoint."""
    try:
        return Path(str(resources.files("foundation_policy") / "blob" / "checkpoint.h5"))
    except ModuleNotFoundError:
        mend = "pip install foundation-policy"
        raise InputError(
            [Violation("foundation-policy", "the package", "not installed", mend)]
        ) from None


def load_checkpoint(path: Path) -> tuple[FoundationPolicy, np.ndarray, np.ndarray]:
    """Read the authors' HDF5 file.

    Returns:
        The network, and its example run from the initial state: observation [500, 2, 22] and
        raw action [500, 2, 4].

    Raises:
        ContractError: a part is missing or has another shape.
    """
    with h5py.File(path) as file:

        def read(name: str, *shape: int) -> np.ndarray:
            found = file.get(name)
            if not isinstance(found, h5py.Dataset) or found.shape != shape:
                what = f"{found.shape}" if isinstance(found, h5py.Dataset) else "nothing"
                mend = "install foundation-policy 1.x"
                where = f"{path.name} {name}"
                raise ContractError([Violation(where, f"an array {shape}", what, mend)])
            return np.asarray(found[()], np.float32)

        example = read("example/input", 500, 2, 22), read("example/output", 500, 2, 4)
        return _network(read), *example


def raptor_contract(network: FoundationPolicy, source: str, data_sha256: str) -> Contract:
    """The contract of the imported policy: PX4's limits on what it sees."""
    origin = provenance(source, "MIT (the RAPTOR authors)", (), data_sha256)
    clips = {"position_clip": 0.5, "velocity_clip": 1.0}
    return quadrotor_contract("raptor", network, origin, **clips)


def _network(read: Callable[..., np.ndarray]) -> FoundationPolicy:
    network = FoundationPolicy(**SIZES)
    layer = "actor/layers/{}/{}/parameters".format
    weights = {
        "encoder.weight": read(layer(0, "weights"), 16, 22),
        "encoder.bias": read(layer(0, "biases"), 1, 16)[0],
        "memory.weight_ih": read(layer(1, "weights_input"), 48, 16),
        "memory.weight_hh": read(layer(1, "weights_hidden"), 48, 16),
        "memory.bias_ih": read(layer(1, "biases_input"), 48),
        "memory.bias_hh": read(layer(1, "biases_hidden"), 48),
        "head.weight": read(layer(2, "weights"), 4, 16),
        "head.bias": read(layer(2, "biases"), 1, 4)[0],
        "initial_state": read(layer(1, "initial_hidden_state"), 16),
    }
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return network


def _golden(
    network: FoundationPolicy, contract: Contract, observation: np.ndarray, action: np.ndarray
) -> Golden:
    """The start of the authors' example, twice with a reset: THEIR actions, our states."""
    observation, action = observation[:GOLDEN_STEPS], action[:GOLDEN_STEPS]
    reset = np.zeros(2 * GOLDEN_STEPS, bool)
    reset[[0, GOLDEN_STEPS]] = True
    twice = np.concatenate([observation, observation])[:, :, None]
    golden = record(network, contract, twice, reset, {})
    return dataclasses.replace(golden, action=np.concatenate([action, action])[:, :, None])
