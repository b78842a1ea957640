"""Reward-modulated plasticity: which sensory-to-motor synapses grow, and when.

The three-factor rule of Frémaux and Gerstner (2016): pairs of spikes leave an eligibility
trace in each synapse, and a reward signal shared by all turns the trace into a change of weight.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlasticityConfig:
    rate: float = 0.02
    pair_tau_ms: float = 20.0
    eligibility_tau_ms: float = 400.0
    depression: float = 0.0
    center: float = 1.0
    mean_tau_ms: float = 1000.0
    largest_mv: float = 5.0
    normalise: bool = True


class Plasticity:
    def __init__(self, weights: Floats, plastic: Bools, config: PlasticityConfig, frame_ms: int) -> None:
        """weights: (post, pre) view"""
        self.c = config
        self.w = weights
        self.plastic = plastic.astype(np.float32)
        d = math.exp(-1 / config.pair_tau_ms)
        k = np.arange(frame_ms)
        # trace before the spike of the same step
        lag = k[:, None] - k[None, :]
        self.L = np.where(lag >= 0, d ** np.maximum(lag, 0), 0).astype(np.float32)
        self.p = (d ** (k + 1)).astype(np.float32)
        self.pre_trace = np.zeros(weights.shape[1], np.float32)
        self.post_trace = np.zeros(weights.shape[0], np.float32)
        self.post_mean = np.full(weights.shape[0], 0.015, np.float32)
        self.E = np.zeros(weights.shape, np.float32)
        self.keep = np.float32(math.exp(-frame_ms / config.eligibility_tau_ms))
        self.keep_mean = math.exp(-frame_ms / config.mean_tau_ms)
        self.total = self.w.sum(1, keepdims=True)
        self.largest = config.largest_mv

    def observe(self, pre: Bools, post: Bools) -> None:
        pre = pre.astype(np.float32)
        post = post.astype(np.float32)
        preT = self.L @ pre + self.p[:, None] * self.pre_trace
        self.pre_trace = preT[-1]
        self.post_mean += (1 - self.keep_mean) * (post.mean(0) - self.post_mean)
        self.E *= self.keep
        if self.c.depression:
            postT = self.L @ post + self.p[:, None] * self.post_trace
            self.post_trace = postT[-1]
            self.E -= self.c.depression * (postT.T @ pre)
        self.E += (post - self.c.center * self.post_mean).T @ preT

    def reward(self, dopamine: float) -> None:
        dw = self.E * np.float32(self.c.rate * dopamine)
        dw *= self.plastic
        w = self.w
        w += dw
        np.clip(w, 0.0, self.largest, out=w)
        if self.c.normalise: w *= self.total / w.sum(1, keepdims=True)
