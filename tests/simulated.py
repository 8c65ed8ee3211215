"""Runs as a model of chance makes them: images of all difficulties, backbones, seeds.

A model has an image right if ``skill + easiness + what suits the backbone + what suits the seed > 0``, where
all but the skill are normal. So two models are right on much the same images, seeds of one backbone even more,
and the share of right ones over all images there are is known: Phi(skill / DEVIATION).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mae_bench import outcomes
from mae_bench.outcomes import Hits, Outcomes, Weights
from tests.sample_runs import store

EASINESS, BACKBONE, SEED = 2.0, 1.0, 0.7
DEVIATION = float(np.sqrt(EASINESS**2 + BACKBONE**2 + SEED**2))


def truth(skill: float) -> float:
    """Accuracy over all images there are, in percent."""
    return 100 * float(ndtr(skill / DEVIATION))


def backbones(
    stream: np.random.Generator, images: int, skills: Sequence[float], seeds: Sequence[int]
) -> list[list[Hits]]:
    """For each skill the outcomes of as many seeds, all on the same new images."""
    easiness = stream.normal(0, EASINESS, images)
    found = []
    for skill, count in zip(skills, seeds, strict=True):
        suits = skill + easiness + stream.normal(0, BACKBONE, images)
        right = suits + stream.normal(0, SEED, (count, images)) > 0
        found.append([Hits("simulated", {"top1": row}) for row in right])
    return found


class Overlap(Outcomes):
    """A ratio of sums, averaged over classes, as mean IoU is: no mean over images.

    Args:
        shared: intersections (N, K).
        area: unions (N, K).
    """

    samples = "simulated"
    metrics = ("miou",)

    def __init__(self, shared: NDArray[np.float64], area: NDArray[np.float64]) -> None:
        self.shared, self.area = shared, area
        self.size = len(shared)
        self.calls = 0

    def score(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        self.calls += len(weights)
        with np.errstate(invalid="ignore"):
            return {"miou": 100 * (weights @ self.shared / (weights @ self.area)).mean(axis=1)}

    def beside(self, other: Outcomes) -> Overlap:
        assert isinstance(other, Overlap)
        both = [np.concatenate(pair) for pair in ((self.shared, other.shared), (self.area, other.area))]
        return Overlap(*both)


class Distinct(Outcomes):
    """The share of the samples that occur at all: 100 %, and never so in a resample."""

    samples = "simulated"
    metrics = ("distinct",)

    def __init__(self, size: int) -> None:
        self.size = size

    def score(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        return {"distinct": 100 * (weights > 0).mean(axis=1)}

    def beside(self, other: Outcomes) -> Distinct:
        return Distinct(self.size + other.size)


def overlaps(
    stream: np.random.Generator, images: int, skills: Sequence[float], classes: int = 3
) -> list[Overlap]:
    """For each skill one run, on the same new images of objects of all sizes."""
    area = stream.gamma(1.0, 1.0, (images, classes)) + 0.01
    easiness = stream.normal(0, 1, (images, 1))
    return [
        Overlap(area * ndtr(skill + easiness + stream.normal(0, 0.7, (images, classes))), area)
        for skill in skills
    ]


def finished(root: Path, name: str, hits: Hits, **changes: Any) -> Path:
    """A finished run below `root` with its outcomes, and the metrics that follow from them."""
    folder = store(root, name, metrics=outcomes.own(hits), **changes)
    outcomes.write(folder, {"": hits})
    return folder


def finished_seeds(root: Path, name: str, runs: Sequence[Hits], **changes: Any) -> Path:
    """Runs that differ in their seed, ``NAME/s0`` and so on; a backbone of its own for each name."""
    backbone = {"spec": f"timm:{name}", "digest": f"{name:a<64}"}
    for seed, hits in enumerate(runs):
        finished(root, f"{name}/s{seed}", hits, seed=seed, **{"backbone": backbone, **changes})
    return root / name
