"""What every detection task has, whatever trains it: one dataset in COCO's format, one judge, pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from downstream.detection.settings import DetectionData
from mae_bench.adapter import Adapter, C, Metric
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from downstream.detection.evaluation import Finder
    from downstream.detection.source import CocoSource
    from mae_bench.outcomes import Outcomes
    from mae_bench.run import Run
    from mae_bench.survey import Survey

DETECTIONS_FILE = "detections.json"
PICTURE_FILE = "detections.png"


def _metrics() -> dict[str, Metric]:
    """The twelve numbers of COCO for boxes, and for masks; both headlines first."""
    named = {
        "ap": "AP",
        "ap50": "AP at IoU 0.5",
        "ap75": "AP at IoU 0.75",
        "ap_small": "AP of small objects",
        "ap_medium": "AP of medium objects",
        "ap_large": "AP of large objects",
        "ar1": "AR with 1 detection",
        "ar10": "AR with 10 detections",
        "ar100": "AR with 100 detections",
        "ar_small": "AR of small objects",
        "ar_medium": "AR of medium objects",
        "ar_large": "AR of large objects",
    }
    every = {
        f"{kind}_{name}": Metric(
            "%", label=f"{kind} {label}", optional=name.endswith(("small", "medium", "large"))
        )
        for kind in ("box", "mask")
        for name, label in named.items()
    }
    first = {name: every[name] for name in ("box_ap", "mask_ap")}
    return first | every


class JudgedDetection(Adapter[C]):
    """A task whose result is a file of detections in the validation images."""

    task = "detection"
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()

    @property
    @abstractmethod
    def data(self) -> DetectionData:
        """The dataset; of the rest of its settings nothing is read here."""

    @abstractmethod
    def finder(self, run: Run) -> Finder:
        """What finds objects in an image with the weights that a finished run reported."""

    def kinds(self, run: Run) -> Sequence[str]:
        """What is judged: ``box``, ``mask`` or both."""
        return ("box", "mask")

    def source(self, run: Run) -> CocoSource:
        """The validation split."""
        from downstream.detection.dataset import open_split

        return open_split(self.data, "val", run.data_root)

    def scored(self, source: CocoSource, detections: Path, run: Run) -> dict[str, float]:
        """AP of a file of detections in the images of `source`, on every process."""
        from downstream.detection.evaluation import score

        scores = score(source, detections, run, self.kinds(run))
        run.record(details={"per_class": scores.per_class})
        return self._headlines_first(scores.metrics)

    def survey(self, data_root: Path) -> Survey:
        """Images and annotations of the splits that are used, and what is wrong with them."""
        from downstream.detection.surveying import survey

        only_judged = bool(getattr(self.config, "evaluate_only", False))
        return survey(self.data, data_root, ("val",) if only_judged else ("train", "val"))

    def judge(self, run: Run) -> dict[str, float]:
        """AP of the detections in the run's folder."""
        from downstream.detection.judge import judge_file

        path = run.folder / DETECTIONS_FILE
        if not path.exists():
            raise MaeBenchError(f"{path}: there is no such file; a run writes it when it is evaluated")
        scores = judge_file(self.source(run).annotation_file, path, kinds=self.kinds(run))
        return self._headlines_first(scores.metrics)

    @classmethod
    def outcomes(cls, folder: Path) -> Mapping[str, Outcomes]:
        """Which detections found which objects in every image."""
        from downstream.detection.outcomes import Detections
        from mae_bench.outcomes import read

        return read(folder, (Detections,))

    def visualize(self, run: Run, images: list[str], count: int) -> list[str]:
        """Detections beside ground truth for validation images; detections alone for given files."""
        from downstream.detection.evaluation import draw_files, draw_saved

        source, path = self.source(run), run.folder / PICTURE_FILE
        if not images:
            return [str(draw_saved(source, run.folder / DETECTIONS_FILE, count, path))]
        find, channels = self.finder(run), self.data.channels
        return [str(draw_files(find, images, source.categories, path, channels=channels))]

    def _headlines_first(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {name: metrics[name] for name in self.metrics if name in metrics}
