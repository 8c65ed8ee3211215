"""What a run's evaluation said of every single sample, kept so that its numbers can be computed anew.

`result.json` holds means over a validation set. How sure they are, and whether two backbones differ on the
same images, follows from the samples: an `Outcomes` computes the run's metrics for any weights of them, as a
bootstrap or a randomisation test asks for. A finished run has them in `outcomes.npz`; runs of tasks that
judge nothing (pretraining), and those of before there was such a file, have none.

The core's own kind is `Hits`, right or wrong for each sample. Families of tasks add kinds of their own and
say so in `Adapter.outcomes`. numpy alone is needed, no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

FILE = "outcomes.npz"
SCHEMA = 1
"""Version of the file's layout; a file of another one is not read."""
_CONTENTS = "contents"
# How far a metric may be from what the outcomes give.
_TOLERANCE = 1e-6

Weights = NDArray[np.float64]
"""How often each sample counts in each of R evaluations: (R, N), none negative, each row with a sum > 0."""


class Outcomes(ABC):
    """What came of each of N samples in one evaluation.

    Attributes:
        samples: SHA-256 over names and truth of the samples, in order: equal means the same samples.
        size: N.
        metrics: what `score` can compute, named as in `result.json`; perhaps not all that is there.
    """

    samples: str
    size: int
    metrics: tuple[str, ...]

    @abstractmethod
    def score(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """The metrics where each sample counts as often as `weights` (R, N) says.

        Returns:
            Metric -> (R,), in the unit of `result.json`; NaN where it does not exist for these weights.
            Weights that are all one give the run's own numbers.
        """

    @abstractmethod
    def beside(self, other: Outcomes) -> Outcomes:
        """Both together as one evaluation of 2N samples, mine first.

        With weights [m, 1 - m] each sample is taken from one of the two, as a randomisation test wants it.

        Raises:
            MaeBenchError: they are of different kinds, or cannot be judged together.
        """


class Saved(Outcomes):
    """Outcomes that a file can hold.

    Attributes:
        kind: what the file calls them.
    """

    kind: ClassVar[str]

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What `restore` needs besides `samples`, `size` and arrays; plain values."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the file holds under names of one's own; no arrays of objects."""

    @classmethod
    @abstractmethod
    def restore(
        cls, samples: str, size: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """What `facts` and `arrays` were taken from.

        Raises:
            KeyError, TypeError, ValueError: they do not fit together.
        """


class Hits(Saved):
    """Right or wrong for every sample, once for each metric: a metric is the share of right ones in percent.

    Args:
        hits: metric -> bool (N,).
    """

    kind: ClassVar[str] = "hits"

    def __init__(self, samples: str, hits: Mapping[str, NDArray[np.bool_]]) -> None:
        self.samples = samples
        self.metrics = tuple(hits)
        self.hits = np.stack([np.asarray(right, dtype=np.bool_) for right in hits.values()])
        """(M, N), in the order of `metrics`."""
        self.size = self.hits.shape[1]

    def score(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """100 times the weighted mean; whole weights are summed exactly."""
        weights = checked(weights, self.size)
        return dict(zip(self.metrics, 100.0 * summed(self.hits, weights) / weights.sum(axis=1), strict=True))

    def beside(self, other: Outcomes) -> Hits:
        """Of the metrics that both have."""
        mine, theirs = alike(self, other)
        shared = [name for name in mine.metrics if name in theirs.metrics]
        if not shared:
            raise MaeBenchError(
                f"outcomes for {', '.join(mine.metrics)} and for {', '.join(theirs.metrics)} have no metric "
                "in common; compare runs of one task"
            )
        pooled = {name: np.concatenate([mine.of(name), theirs.of(name)]) for name in shared}
        return Hits(both(mine, theirs), pooled)

    def of(self, metric: str) -> NDArray[np.bool_]:
        """(N,): which samples are right by a metric."""
        return self.hits[self.metrics.index(metric)]

    def facts(self) -> dict[str, Any]:
        """The names of the metrics."""
        return {"metrics": list(self.metrics)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The hits, eight to a byte."""
        return {"hits": np.packbits(self.hits, axis=1)}

    @classmethod
    def restore(
        cls, samples: str, size: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """See `Saved`."""
        hits = unpacked(arrays["hits"], size)
        return cls(samples, dict(zip(facts["metrics"], hits, strict=True)))


# ---------------------------------------------------------------- what kinds are made of

Kind = TypeVar("Kind", bound=Outcomes)


def own(outcomes: Outcomes) -> dict[str, float]:
    """The metrics where every sample counts once: those of the run."""
    once = np.ones((1, outcomes.size))
    return {name: float(values[0]) for name, values in outcomes.score(once).items()}


def check_of_one_run(name: str, metrics: Mapping[str, float], metric: str, outcomes: Outcomes) -> None:
    """Refuse outcomes that are not those behind a run's result, as when one file of two was copied.

    Raises:
        MaeBenchError: they give another number.
    """
    stored, computed = metrics[metric], own(outcomes)[metric]
    if abs(stored - computed) > _TOLERANCE * max(1.0, abs(stored)):
        raise MaeBenchError(
            f"{name}: {FILE} gives {metric} {computed:.6g} and result.json says {stored:.6g}, "
            "so they are not of one run; copy the whole folder again, or run again with --force"
        )


def summed(hits: NDArray[np.bool_], weights: Weights) -> NDArray[np.float64]:
    """(M, N) hits and (R, N) weights -> (M, R), the weight of the hits in each row of weights."""
    found: NDArray[np.float64] = hits.astype(np.float64) @ weights.T
    return found


def checked(weights: Weights, size: int) -> Weights:
    """Weights as they must be; raises ValueError if they are for other samples."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != size:
        raise ValueError(f"weights of {size} samples are (R, {size}), not {weights.shape}")
    return weights


def alike(mine: Kind, other: Outcomes) -> tuple[Kind, Kind]:
    """Both, if they are of one kind; raises a MaeBenchError if not."""
    if not isinstance(other, type(mine)):
        raise MaeBenchError(
            f"outcomes of the kinds {type(mine).__name__} and {type(other).__name__} cannot be judged "
            "together; compare runs of one task"
        )
    return mine, other


def both(mine: Outcomes, other: Outcomes) -> str:
    """What the samples of two evaluations beside each other are called."""
    return hashlib.sha256(f"{mine.samples} {other.samples}".encode()).hexdigest()


def unpacked(packed: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """(M, ceil(N / 8)) bytes -> (M, N) bool.

    Raises:
        ValueError: they are not of so many samples.
    """
    if packed.ndim != 2 or packed.shape[1] != -(-size // 8):
        raise ValueError(f"bits of {size} samples are (M, {-(-size // 8)}), not {packed.shape}")
    return np.unpackbits(packed, axis=1, count=size).astype(np.bool_)


# ---------------------------------------------------------------- files


def write(folder: Path, outcomes: Mapping[str, Saved]) -> Path:
    """Write `outcomes.npz` into a run's folder, whole or not at all.

    Args:
        outcomes: name of the set -> its outcomes; ``""`` for the only set of an ordinary task.

    Raises:
        MaeBenchError: the file cannot be written.
    """
    arrays: dict[str, Any] = {}
    sets = []
    for number, (name, one) in enumerate(outcomes.items()):
        head = {"name": name, "kind": one.kind, "samples": one.samples, "size": one.size}
        sets.append({**head, "facts": one.facts()})
        arrays |= {f"{number}.{key}": array for key, array in one.arrays().items()}
    contents = json.dumps({"schema": SCHEMA, "sets": sets}, allow_nan=False).encode()
    arrays[_CONTENTS] = np.frombuffer(contents, dtype=np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return write_atomic(folder / FILE, stream.getvalue())


def read(folder: Path, kinds: Sequence[type[Saved]] = (Hits,)) -> dict[str, Saved]:
    """The outcomes in a run's folder, by set, as `write` was given them; empty if there is no such file.

    Args:
        kinds: what the sets may be.

    Raises:
        MaeBenchError: the file is damaged, of another version, or holds a kind that is not among `kinds`.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        content = path.read_bytes()
        if not content.startswith(b"PK"):  # of which numpy would say that it could be unpickled
            raise zipfile.BadZipFile("it is no zip archive")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            contents = json.loads(file[_CONTENTS].tobytes())
            if contents["schema"] != SCHEMA:
                raise MaeBenchError(
                    f"{path} follows version {contents['schema']} of its layout; this mae-bench reads "
                    f"version {SCHEMA}"
                )
            arrays = {name: file[name] for name in file.files if name != _CONTENTS}
        return {
            entry["name"]: _restored(entry, _of_set(arrays, number), kinds, path)
            for number, entry in enumerate(contents["sets"])
        }
    except (
        OSError, EOFError, LookupError, TypeError, AttributeError, ValueError, RuntimeError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        # RuntimeError: of damaged flags zipfile says that they ask for a password or another compression.
        raise MaeBenchError(
            f"{path} is damaged ({error}); copy it again, or run again with --force"
        ) from error


def _of_set(arrays: Mapping[str, NDArray[Any]], number: int) -> dict[str, NDArray[Any]]:
    start = f"{number}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _restored(
    entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], kinds: Sequence[type[Saved]], path: Path
) -> Saved:
    for kind in kinds:
        if kind.kind == entry["kind"]:
            return kind.restore(str(entry["samples"]), int(entry["size"]), entry["facts"], arrays)
    known = ", ".join(kind.kind for kind in kinds)
    raise MaeBenchError(
        f"{path} holds outcomes of the kind '{entry['kind']}', and its task knows {known}; it is from "
        "another version of mae-bench"
    )


def of_run(folder: Path, adapter_name: str) -> Mapping[str, Outcomes]:
    """The outcomes of a finished run, by set; empty where it saved none.

    Args:
        adapter_name: name of the adapter in the catalogue: ``config.task`` of the run's result.

    Raises:
        MaeBenchError: the file is damaged, or there is no such adapter any more.
    """
    from mae_bench import registry

    if not (folder / FILE).exists():
        return {}
    found: Mapping[str, Outcomes] = registry.adapters().target(adapter_name).outcomes(folder)
    return found


def for_metric(folder: Path, adapter_name: str, metric: str) -> Outcomes | None:
    """The outcomes that a metric of a finished run can be computed from, or None; else as `of_run`."""
    for outcomes in of_run(folder, adapter_name).values():
        if metric in outcomes.metrics:
            return outcomes
    return None
