"""Errors on ImageNet-C: the plain mean, and the one normalised by AlexNet (mCE). Numbers, no images.

Hendrycks and Dietterich, arXiv:1903.12261: the error of a corruption is the sum of the model's errors over
the five severities, divided by that of AlexNet's, CE_c = sum_s E_sc / sum_s A_sc; mCE is the mean of the 15
CE_c. AlexNet's own mean error is 78.9 %, so a mean error is about 0.79 of the mCE of the same model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mae_bench.corruptions import CORRUPTIONS, SEVERITIES
from mae_bench.errors import MaeBenchError

ALEXNET: dict[str, tuple[float, float, float, float, float]] = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
"""AlexNet's top-1 error on ImageNet-C for severities 1 to 5; AugMix's ALEXNET_ERR are the means of these."""

Error = TypeVar("Error", float, NDArray[np.float64])
"""An error as a fraction; or an array of them, one for each of several weightings of the images."""
Errors = Mapping[str, Mapping[int, Error]]
"""Corruption -> severity -> error."""


def corruption_metrics(errors: Errors[Error]) -> dict[str, Error]:
    """All numbers that a result has of these errors, under the names of metrics, in percent.

    ``in_c_mce`` and ``in_c_error`` where all cells are there, else ``in_c_part_error`` over those that are;
    ``in_c_error_NAME`` and ``in_c_ce_NAME`` of each corruption, where all five severities are there.
    """
    severities = list(next(iter(errors.values())))
    metrics: dict[str, Error] = {}
    if is_complete(list(errors), severities):
        metrics |= {"in_c_mce": mean_corruption_error(errors), "in_c_error": mean_error(errors)}
    else:
        metrics["in_c_part_error"] = mean_error(errors)
    if len(severities) == len(SEVERITIES):
        for corruption, by_severity in errors.items():
            metrics[f"in_c_error_{corruption}"] = mean_error({corruption: by_severity})
            metrics[f"in_c_ce_{corruption}"] = corruption_error(corruption, by_severity)
    return metrics


def mean_error(errors: Errors[Error]) -> Error:
    """Mean over all cells, in percent; not normalised by anything."""
    cells = [error for by_severity in errors.values() for error in by_severity.values()]
    return 100 * _sum(cells) / len(cells)


def corruption_error(corruption: str, by_severity: Mapping[int, Error]) -> Error:
    """CE of one corruption, in percent of AlexNet's error.

    Raises:
        MaeBenchError: not all five severities.
    """
    if sorted(by_severity) != list(SEVERITIES):
        raise MaeBenchError(
            f"the corruption error of {corruption} is over severities 1 to 5, not {_listed(by_severity)}"
        )
    return 100 * _sum(by_severity.values()) / sum(ALEXNET[corruption])


def mean_corruption_error(errors: Errors[Error]) -> Error:
    """mCE, in percent of AlexNet's error.

    Raises:
        MaeBenchError: not all 15 corruptions with all five severities.
    """
    lacking = [name for name in CORRUPTIONS if name not in errors]
    if lacking or len(errors) != len(CORRUPTIONS):
        raise MaeBenchError(f"mCE is over the {len(CORRUPTIONS)} corruptions, not {_listed(errors)}")
    return _sum(corruption_error(name, errors[name]) for name in CORRUPTIONS) / len(CORRUPTIONS)


def _sum(errors: Iterable[Error]) -> Error:
    """The sum of some errors, at least one."""
    first, *others = errors
    for other in others:
        first = first + other
    return first


def is_complete(corruptions: Sequence[str], severities: Sequence[int]) -> bool:
    """Whether there is an mCE of these."""
    return set(corruptions) == set(CORRUPTIONS) and set(severities) == set(SEVERITIES)


def _listed(names: Mapping[str, object] | Mapping[int, object]) -> str:
    return ", ".join(map(str, names)) or "none"
