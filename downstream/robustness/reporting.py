"""From counts to the metrics of a result, each under its own name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from downstream.robustness.cells import Cell, Evaluation, joint_fingerprint, locally_made, parts_of
from downstream.robustness.classes import are_imagenets
from downstream.robustness.classifiers import TrainedClassifier
from downstream.robustness.corruption_error import CORRUPTIONS, SEVERITIES, corruption_metrics
from downstream.robustness.ledger import Count
from downstream.robustness.outcomes import Corrupted
from mae_bench import screen
from mae_bench.outcomes import Hits, Saved


def metrics_of(
    counts: Mapping[str, Count], evaluation: Evaluation, classifier: TrainedClassifier
) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics, and what a result says besides (units of some, details, notes)."""
    errors: dict[str, dict[int, float]] = {}
    accuracies: dict[str, float] = {}
    for name, count in counts.items():
        if name.startswith("c/"):
            corruption, severity = parts_of(name)
            errors.setdefault(corruption, {})[severity] = 1 - count.right / count.scored
        else:
            accuracies[f"in_{name}_top1"] = 100 * count.right / count.scored
    corrupted, facts = _corruption_metrics(errors, classifier) if errors else ({}, {})
    return {**corrupted, **accuracies}, facts


def _corruption_metrics(
    errors: dict[str, dict[int, float]], classifier: TrainedClassifier
) -> tuple[dict[str, float], dict[str, Any]]:
    severities = list(next(iter(errors.values())))
    cells = len(errors) * len(severities)
    facts: dict[str, Any] = {
        "units": {},
        "notes": [],
        "details": {
            "in_c_error_by_severity": {
                corruption: {str(severity): 100 * error for severity, error in by_severity.items()}
                for corruption, by_severity in errors.items()
            }
        },
    }
    metrics = corruption_metrics(errors)
    if "in_c_part_error" in metrics:
        facts["notes"].append(
            f"ImageNet-C in part, {cells} of {len(CORRUPTIONS) * len(SEVERITIES)} cells: there is no mCE, "
            "and in_c_part_error is the mean over these cells alone"
        )
    if len(severities) == len(SEVERITIES):
        for corruption in errors:
            facts["units"] |= {
                f"in_c_error_{corruption}": _unit(f"mean error under {corruption}, not normalised"),
                f"in_c_ce_{corruption}": _unit(f"CE of {corruption} (normalised by AlexNet)"),
            }
        if not are_imagenets(classifier.classes):
            facts["notes"].append(
                "AlexNet's errors, by which mCE and CE are normalised, were measured on ImageNet-C; these "
                "classes are not ImageNet's"
            )
    return metrics, facts


def _unit(label: str) -> dict[str, Any]:
    return {"unit": "%", "higher_is_better": False, "label": label}


def outcomes_of(counts: Mapping[str, Count], evaluation: Evaluation) -> dict[str, Saved]:
    """What came of every image, set by set.

    Of ImageNet-C there is none where its cells do not hold the same images in the same order: then the number
    for a choice of images is not defined.
    """
    outcomes: dict[str, Saved] = {}
    corrupted: list[Count] = []
    for cell in evaluation.cells:
        count = counts[cell.name]
        if cell.key == "c":
            corrupted.append(count)
        else:
            outcomes[cell.key] = Hits(count.images, {f"in_{cell.key}_top1": count.named()})
    if len({count.images for count in corrupted}) > 1:
        screen.warn(
            "ImageNet-C: the images do not have the same names under all corruptions, so what came of each "
            "is not kept: no interval and no paired test for its numbers"
        )
    elif corrupted:
        samples = joint_fingerprint((count.cell, count.images) for count in corrupted)
        cells = [parts_of(count.cell) for count in corrupted]
        outcomes["c"] = Corrupted(samples, cells, np.stack([count.named() for count in corrupted]))
    return outcomes


def dataset_facts(name: str, evaluation: Evaluation, classifier: TrainedClassifier) -> dict[str, Any]:
    """What a result says of the sets: one identity for all together, and each for itself in the details."""
    sets: dict[str, dict[str, Any]] = {}
    for cell in evaluation.cells:
        entry = sets.setdefault(cell.key, {"images": 0, "classes": cell.classes})
        entry["images"] += len(cell.dataset)
    for key, entry in sets.items():
        entry["fingerprint"] = _joint([cell for cell in evaluation.cells if cell.key == key])
    tree = evaluation.tree
    if tree is not None:
        sets["c"] |= {"corruptions": tree.corruptions, "severities": tree.severities}
        if tree.made is not None:
            sets["c"]["made_locally"] = locally_made(tree.made)
    return {
        "dataset": {
            "name": name,
            "fingerprint": joint_fingerprint((cell.name, cell.fingerprint) for cell in evaluation.cells),
            "train_images": 0,
            "val_images": sum(len(cell.dataset) for cell in evaluation.cells),
            "classes": len(classifier.classes),
        },
        "details": {"sets": sets},
    }


def _joint(cells: list[Cell]) -> str:
    return hashlib.sha256(" ".join(cell.fingerprint for cell in cells).encode()).hexdigest()
