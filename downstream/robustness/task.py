"""Robustness of a finished classifier (MAE, arXiv:2111.06377, Table 13); nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from downstream.robustness.settings import WHAT, RobustnessConfig
from mae_bench.adapter import Adapter, Metric

if TYPE_CHECKING:
    from downstream.robustness.classifiers import TrainedClassifier
    from mae_bench.outcomes import Outcomes
    from mae_bench.run import Run
    from mae_bench.survey import Survey


def _accuracy(label: str) -> Metric:
    return Metric("%", label=label, optional=True)


def _error(label: str) -> Metric:
    return Metric("%", higher_is_better=False, label=label, optional=True)


class Robustness(Adapter[RobustnessConfig]):
    """Counts, set by set, how often a classifier is right; ``--backbone`` names the classifier."""

    task = "imagenet-robustness"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "in_c_mce": _error("mCE (normalised by AlexNet)"),
        "in_c_error": _error("mean corruption error, not normalised"),
        "in_c_part_error": _error("mean error of a part of the corruptions, not normalised"),
        "in_a_top1": _accuracy("ImageNet-A top-1 accuracy"),
        "in_r_top1": _accuracy("ImageNet-R top-1 accuracy"),
        "in_sketch_top1": _accuracy("ImageNet-Sketch top-1 accuracy"),
        "in_v2_top1": _accuracy("ImageNetV2 top-1 accuracy"),
        "in_real_top1": _accuracy("ImageNet ReaL accuracy"),
    }
    Config = RobustnessConfig
    takes: ClassVar[str] = WHAT
    seeded: ClassVar[bool] = False
    evaluates: ClassVar[Mapping[str, Any]] = {
        "task": ["imagenet-finetune", "imagenet-scratch", "imagenet-linear", "imagenet-partial"],
        "protocol": "imagenet-*",
    }

    def run(self, run: Run) -> dict[str, float]:
        """Open the classifier, list the sets, pass over what is not counted yet."""
        from downstream.robustness.cells import open_cells
        from downstream.robustness.counting import count_all
        from downstream.robustness.reporting import dataset_facts, metrics_of, outcomes_of
        from mae_bench.settings import digest_of, recipe_hash

        classifier = self._classifier(run)
        evaluation = open_cells(self.config, run.data_root, classifier)
        counts = count_all(evaluation.cells, classifier, run, self.config.data.workers)
        metrics, facts = metrics_of(counts, evaluation, classifier)
        run.keep(outcomes_of(counts, evaluation))
        run.record(**classifier.facts)
        run.record(**facts)
        run.record(**dataset_facts(self.config.data.name, evaluation, classifier))
        # Classifiers that were trained otherwise repeat nothing of each other, whatever their backbone; of a
        # whole one it is not known how, so it repeats nothing but itself.
        trained_by = classifier.facts["details"]["classifier"].get("recipe_hash", classifier.digest)
        run.record(recipe_hash=digest_of([recipe_hash(self.config), trained_by]))
        run.record(
            notes=evaluation.notes,
            selection="the classifier as its training left it; nothing was chosen by these sets",
            details={"transform": classifier.transform_in_words},
        )
        return metrics

    def _classifier(self, run: Run) -> TrainedClassifier:
        from downstream.robustness.classifiers import open_classifier
        from mae_bench import screen

        classifier = open_classifier(run)
        if classifier.report is not None and run.is_main:
            classifier.report.save(run.folder / "load_report.json")
        screen.say(classifier.origin)
        return classifier

    @classmethod
    def outcomes(cls, folder: Path) -> Mapping[str, Outcomes]:
        """By set, under its key in `sets`; the samples of ImageNet-C are its images, not its pictures."""
        from downstream.robustness.outcomes import Corrupted
        from mae_bench.outcomes import Hits, read

        return read(folder, (Hits, Corrupted))

    def check(self, run: Run) -> list[str]:
        """The classifier is built, every set is listed, and one image of each part is read."""
        from downstream.robustness.cells import open_cells

        classifier = self._classifier(run)
        evaluation = open_cells(self.config, run.data_root, classifier)
        for cell in evaluation.cells:
            cell.dataset[0]
        return [
            f"classifier {classifier.origin}",
            f"{len(classifier.classes):,} classes, by {classifier.classes_from}; images: "
            f"{classifier.transform_in_words}",
            *evaluation.lines,
            *(f"note: {note}" for note in evaluation.notes),
        ]

    def survey(self, data_root: Path) -> Survey:
        """The sets as `data check` looks at them, without a classifier."""
        from downstream.robustness.surveying import survey

        return survey(self.config, data_root)
