"""mCE and mean corruption error: numbers by hand, and of a set of images that is wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from downstream.robustness import classifiers
from downstream.robustness.corruption_error import (
    ALEXNET,
    corruption_error,
    is_complete,
    mean_corruption_error,
    mean_error,
)
from mae_bench import api
from mae_bench.corruptions import CORRUPTIONS
from mae_bench.errors import MaeBenchError
from tests.colours import BACKBONE, write_recipe
from tests.robust_sets import ROBUSTNESS, nearest, write_folders

# ALEXNET_ERR of AugMix, by name: the mean over the five severities.
ALEXNET_MEANS = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.92264, "defocus_blur": 0.81988,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.79836, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.71784, "jpeg_compression": 0.6065,
}  # fmt: skip


def test_alexnets_errors_are_those_of_augmix() -> None:
    assert list(ALEXNET) == list(CORRUPTIONS) == list(ALEXNET_MEANS)
    for name, mean in ALEXNET_MEANS.items():
        assert sum(ALEXNET[name]) / 5 == pytest.approx(mean, abs=2e-6)


def test_alexnet_itself_has_an_mce_of_100() -> None:
    own = {name: dict(enumerate(errors, start=1)) for name, errors in ALEXNET.items()}
    assert mean_corruption_error(own) == pytest.approx(100, abs=1e-9)
    # The mean of its errors is 0.789: the number that an mCE must not be confused with.
    assert mean_error(own) == pytest.approx(78.8993, abs=1e-4)


def test_an_error_is_normalised_by_the_sum_over_severities() -> None:
    # 0.2 + 0.2 + 0.4 + 0.4 + 0.6 = 1.8; AlexNet on brightness: 0.4514 + 0.48502 + 0.54048 + 0.62166 + 0.7244 =
    # 2.82296; 1.8 / 2.82296 = 0.637629. The mean of five ratios would be 0.613443.
    errors = {1: 0.2, 2: 0.2, 3: 0.4, 4: 0.4, 5: 0.6}
    assert corruption_error("brightness", errors) == pytest.approx(63.7629, abs=1e-4)


@pytest.mark.parametrize("lacking", ["fog", "fog/3"])
def test_there_is_no_mce_of_a_part(lacking: str) -> None:
    errors = {name: dict.fromkeys(range(1, 6), 0.5) for name in CORRUPTIONS}
    if lacking == "fog":
        del errors["fog"]
    else:
        del errors["fog"][3]
    with pytest.raises(MaeBenchError, match=r"over the 15 corruptions|over severities 1 to 5"):
        mean_corruption_error(errors)


def test_complete_is_all_of_both() -> None:
    assert is_complete(list(CORRUPTIONS), [1, 2, 3, 4, 5])
    assert not is_complete(list(CORRUPTIONS), [1, 2, 3, 4])
    assert not is_complete(list(CORRUPTIONS)[1:], [1, 2, 3, 4, 5])


# Eight images in each cell. In corruption number i and severity s so many of them lie in a wrong folder:
# s, s + 1 or s + 2, for i of remainder 0, 1 or 2 by three. The errors of the five severities then add up to 15/8, 20/8
# or 25/8, and CE = sum / (5 x AlexNet's mean): for gaussian_noise 1.875 / 4.43214 = 0.423046.
CE_BY_HAND = {
    "gaussian_noise": 42.3046, "shot_noise": 55.8991, "impulse_noise": 67.7404, "defocus_blur": 45.7384,
    "glass_blur": 60.5131, "motion_blur": 79.5218, "zoom_blur": 46.9713, "snow": 57.6824, "frost": 75.6135,
    "fog": 45.7694, "brightness": 88.5595, "contrast": 73.2533, "elastic_transform": 58.0445,
    "pixelate": 69.6534, "jpeg_compression": 103.0503,
}  # fmt: skip
MCE_BY_HAND = 64.6877
ERROR_BY_HAND = 50.0  # (5 x 15/8 + 5 x 20/8 + 5 x 25/8) / 75


def test_mce_of_a_constructed_set_equals_the_hand_calculation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, corruption in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            wrong = severity + number % 3
            images = {"blue": ["red"] * wrong + ["blue"] * (7 - wrong), "red": ["red"]}
            write_folders(tmp_path / "imagenet-c" / corruption / str(severity), images)
    classifier = nearest(["red", "blue"])
    monkeypatch.setattr(classifiers, "open_classifier", lambda run: classifier)
    recipe = write_recipe(tmp_path, {**ROBUSTNESS, "sets": {"c": {"root": "imagenet-c"}}})
    result = api.run(recipe, BACKBONE, data_root=tmp_path, runs_root=tmp_path / "runs")
    assert result.metrics["in_c_mce"] == pytest.approx(MCE_BY_HAND, abs=1e-4)
    assert result.metrics["in_c_error"] == pytest.approx(ERROR_BY_HAND, abs=1e-9)
    found = {name: result.metrics[f"in_c_ce_{name}"] for name in CE_BY_HAND}
    assert found == pytest.approx(CE_BY_HAND, abs=1e-4)
    # 15/8, 20/8 and 25/8 over five severities.
    assert [result.metrics[f"in_c_error_{name}"] for name in list(CORRUPTIONS)[:3]] == [37.5, 50.0, 62.5]
    assert result.details["in_c_error_by_severity"]["shot_noise"] == {
        "1": 25.0, "2": 37.5, "3": 50.0, "4": 62.5, "5": 75.0,
    }  # fmt: skip
    labels = {name: result.units[name].label for name in ("in_c_mce", "in_c_error")}
    assert labels == {
        "in_c_mce": "mCE (normalised by AlexNet)",
        "in_c_error": "mean corruption error, not normalised",
    }
    assert not any(result.units[name].higher_is_better for name in result.metrics)
    assert "measured on ImageNet-C; these classes are not ImageNet's" in " ".join(result.notes)
