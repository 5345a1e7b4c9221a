"""Run the iterative form: encode an observation once, then refine a sample step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime as ort

from robot_policies.contract import FRESH, GRADIENT_NORM, SAMPLE, Refinement, Sampler
from robot_policies.sessions import bind, sizes_of


class Refiner:
    """The loop around `refine`, by one of a contract's samplers.

    A row of the schedule makes of a sample [B, Tp, Da] the next one, and of that the action. Where
    the sampler stops early, a robot whose gradient norm is small after a step or more keeps the
    sample that the norm was measured at; the loop ends when all have stopped.
    """

    def __init__(
        self, encode: ort.InferenceSession, refine: ort.InferenceSession,
        refinement: Refinement, sampler: Sampler,
    ) -> None:  # fmt: skip
        """Of sessions that `open_pair` gave."""
        self._encode, self._refine = encode, refine
        self._refinement, self._sampler = refinement, sampler
        self._rows = np.asarray(sampler.schedule, np.float32)
        self._takes_fresh = FRESH in {port.name for port in refine.get_inputs()}

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> Callable[[], None]:
        """What to call for a chunk.

        inputs   observation [B, To, Do] and noise by name: read at each call
        outputs  action [B, Ta, Da] and the feature: written by each call
        """
        batch = len(inputs["observation"])
        sizes = sizes_of(self._refine)
        context = np.zeros((batch, *sizes_of(self._encode)["context"]), np.float32)
        self._given = inputs
        self._action = outputs["action"]
        self._sample = np.zeros((batch, *self._refinement.sample), np.float32)
        self._next = np.zeros_like(self._sample)
        self._schedule = np.zeros((batch, self._rows.shape[1]), np.float32)
        self._fresh = np.zeros_like(self._sample)
        self._reached = np.zeros_like(self._action)
        self._running = np.ones(batch, bool)
        self.iterations = np.zeros(batch, np.int64)
        """[B] steps that changed the robots' samples in the newest chunk."""
        self.told = {
            name: np.zeros((batch, *sizes[name]), np.float32) for name in self._refinement.told
        }
        """Energy and gradient norm [B] of the sample that the last step began with."""
        self._seen = {name: np.zeros_like(value) for name, value in self.told.items()}
        features = {name: array for name, array in outputs.items() if name != "action"}
        first = {"observation": inputs["observation"]}
        self._encoding = bind(self._encode, first, {"context": context, **features})
        second = {"context": context, SAMPLE: self._sample, "schedule": self._schedule}
        if self._takes_fresh:
            second[FRESH] = self._fresh
        found = {"next_sample": self._next, "action": self._reached, **self._seen}
        self._step = bind(self._refine, second, found)
        self._context = context  # the sessions write into it: keep it alive
        return self._run

    def _run(self) -> None:
        self._encode.run_with_iobinding(self._encoding)
        self._sample[...] = self._given[SAMPLE]
        self._running[...] = True
        self.iterations[...] = 0
        for number, row in enumerate(self._rows):
            self._schedule[...] = row
            if self._sampler.fresh_noise:
                self._fresh[...] = self._given[FRESH][:, number]
            self._refine.run_with_iobinding(self._step)
            self._take(may_stop=number > 0)
            if not self._running.any():
                return

    def _take(self, may_stop: bool) -> None:
        """Accept the step for those who go on; who stops had a sample that was good already."""
        running = self._running
        for name, value in self.told.items():
            np.copyto(value, self._seen[name], where=running)
        if may_stop and self._sampler.stop_below is not None:
            running &= self._seen[GRADIENT_NORM] >= self._sampler.stop_below
        accepted = running[:, None, None]
        np.copyto(self._sample, self._next, where=accepted)
        np.copyto(self._action, self._reached, where=accepted)
        self.iterations += running
