"""What a ranking of policies is compared with in benchmarks/ranking.py.

values = fitted_q_evaluation(policy, real, rewards, seed=0)         # of one policy
weights = identified(real, episodes, parameters, seed=0)            # [E] of simulated episodes
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from robot_policies import OnnxPolicy, dynamics
from robot_policies.recordings import Recording

FloatArray = NDArray[np.float64]
DISCOUNT = 0.98
SWEEPS = 150
"""Of fitted Q evaluation: about an episode."""
FEATURES = 300
RIDGE = 1e-2
COMPONENTS = 30
"""Of what an episode tells of its parameters."""


def fitted_q_evaluation(
    policy: OnnxPolicy, real: Recording, rewards: FloatArray, seed: int
) -> float:  # fmt: skip
    """The policy's value where real episodes begin, learned from their steps alone.

    Le, Voloshin and Yue, 2019: Q(s, a) is fitted to r + discount Q(s', policy(s')) again and
    again; here linear in random features, and kept within what rewards allow.
    """
    before, after, rows = real.transitions()
    size = after.shape[1]
    chosen = actions(policy, real)
    states, taken = before[:, :size], before[:, size:]
    generator = np.random.default_rng(seed)
    center, scale = before.mean(0), np.maximum(before.std(0), 1e-6)
    mixing = generator.normal(size=(before.shape[1], FEATURES)) / np.sqrt(before.shape[1])
    offset = generator.uniform(-1, 1, FEATURES)

    def features(states: FloatArray, taken: FloatArray) -> FloatArray:
        x = ((np.concatenate([states, taken], axis=1) - center) / scale).clip(-5, 5)
        return np.concatenate([np.ones((len(x), 1)), x, np.tanh(x @ mixing + offset)], axis=1)

    now, then = features(states, taken), features(after, chosen[rows + 1])
    solve = np.linalg.solve(now.T @ now + RIDGE * len(now) * np.eye(now.shape[1]), now.T)
    reward = rewards[rows]
    low, high = (bound(reward.min(), reward.max()) / (1 - DISCOUNT) for bound in (min, max))
    weights = np.zeros(now.shape[1])
    for _ in range(SWEEPS):
        weights = solve @ (reward + DISCOUNT * (then @ weights).clip(low, high))
    first = real.starts[:-1]
    beginning = features(real.observations[first], chosen[first])
    return float((beginning @ weights).mean())


def actions(policy: OnnxPolicy, real: Recording) -> FloatArray:
    """[M, Da] commands of a policy that goes through a recording."""
    starts, lengths = real.starts[:-1], np.diff(real.starts)
    policy.reset(len(lengths))
    found = []
    for step in range(int(lengths.max())):
        rows = starts + np.minimum(step, lengths - 1)
        commands = policy.act({n: v[rows].astype(np.float32) for n, v in real.signals.items()})
        found.append(np.concatenate([v.reshape(len(rows), -1) for v in commands.values()], axis=1))
    steps = np.stack(found, axis=1)
    return np.concatenate([steps[i, :length] for i, length in enumerate(lengths)]).astype(float)


def identified(
    real: Recording, simulated: Recording, parameters: FloatArray, seed: int
) -> FloatArray:  # fmt: skip
    """Weights [E] of simulated episodes, by how near their parameters [E, P] are to the robot's.

    System identification by regression: from how an episode's steps differ from a common model of
    the dynamics, ridge regression learns to tell its parameters; what it says of the real
    episodes, with the error that it has in simulation, weighs the simulated ones.
    """
    before, after, _ = simulated.transitions()
    model = dynamics.fit(before, after, seed)
    seen, asked = signature(model, simulated), signature(model, real)
    scaler = StandardScaler().fit(seen)
    kept = PCA(min(COMPONENTS, len(seen) // 4), random_state=seed).fit(scaler.transform(seen))
    seen, asked = (kept.transform(scaler.transform(part)) for part in (seen, asked))
    wanted = StandardScaler().fit_transform(parameters)
    half = len(seen) // 2
    learned = RidgeCV(np.logspace(-2, 4, 13)).fit(seen[:half], wanted[:half])
    error = wanted[half:] - learned.predict(seen[half:])
    spread = np.maximum(error.std(0), 0.2)
    told = np.median(learned.predict(asked), axis=0)
    unlikely = np.square((wanted - told) / spread).sum(1) / 2
    weights = np.exp(-(unlikely - unlikely.min()) / max(1.0, parameters.shape[1] / 8))
    return weights / weights.sum()


def signature(model: dynamics.Dynamics, recording: Recording) -> FloatArray:
    """[E, K] of each episode: how what the model does not explain goes with what was seen."""
    before, after, rows = recording.transitions()
    residual = model.unexplained(before, after) @ model.whitening
    seen = np.concatenate(
        [np.ones((len(before), 1)), (before - model.center) / model.scale], axis=1
    )
    found = []
    for number in np.unique(recording.episodes):
        here = recording.episodes[rows] == number
        linear = residual[here].T @ seen[here] / here.sum()
        spread = recording.observations[recording.episodes == number].std(0)
        found.append(np.concatenate([linear.ravel(), np.log(residual[here].std(0)), spread]))
    return np.stack(found)
