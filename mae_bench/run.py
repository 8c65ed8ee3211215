"""A run: one folder, one resolved configuration, one set of processes, from opening to `result.json`.

The folder's name follows from what the run computes, so the same command finds its own earlier work:
finished (its result is given back), or interrupted (it goes on from the last checkpoint).
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import math
import os
import platform
import re
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench import recipe, screen, settings, tracking
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.settings import TaskConfig
from mae_bench.tracing import provenance

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor

    from mae_bench.adapter import Adapter
    from mae_bench.backbones import Backbone
    from mae_bench.data import Samples
    from mae_bench.outcomes import Saved
    from mae_bench.results import Result


def identity(config: TaskConfig) -> str:
    """Digest of all that decides a run's result: recipe values, data, backbone, seed, precision."""
    return settings.identity_hash(config)


def folder_for(config: TaskConfig, runs_root: Path, name: str | None = None) -> Path:
    """Where the run of `config` lives: ``RUNS/NAME`` or ``RUNS/RECIPE/BACKBONE-sSEED-HASH``."""
    if name is not None:
        return runs_root / name
    short = f"s{config.seed}-{identity(config)[:8]}"
    if config.backbone is not None:
        slug = re.sub(r"[^A-Za-z0-9_.=-]+", "-", config.backbone).strip("-.")
        if len(slug) > 80:
            slug = f"{slug[:38]}..{slug[-40:]}"
        short = f"{slug}-{short}"
    return runs_root / config.recipe / short


class Run:
    """An open run folder with what its processes share.

    Attributes:
        folder: where everything of the run is written.
        config: the resolved settings.
        adapter: the task.
        data_root: folder below which datasets are looked for.
        runs_root: folder that holds all runs.
    """

    def __init__(self, adapter: Adapter[Any], folder: Path, *, data_root: Path, runs_root: Path) -> None:
        self.adapter = adapter
        self.config: TaskConfig = adapter.config
        self.folder = folder
        self.data_root = data_root
        self.runs_root = runs_root
        self._facts: dict[str, Any] = {}
        self._outcomes: Mapping[str, Saved] = {}
        self._started = time.time()
        self._mirror = tracking.Mirror(folder, self.config) if self.config.wandb is not None else None
        self._lock: int | None = None

    # ------------------------------------------------------------ processes and device

    @cached_property
    def accelerator(self) -> Accelerator:
        """Process group and device. Precision and accumulation are ours, so it is asked for neither."""
        import torch
        from accelerate import Accelerator

        return Accelerator(cpu=not torch.cuda.is_available())

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """Index of this process among all."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return bool(self.accelerator.is_main_process)

    def barrier(self) -> None:
        """Wait for the other processes."""
        self.accelerator.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the body first, then the others (who find what it made)."""
        with self.accelerator.main_process_first():
            yield

    @cached_property
    def precision(self) -> str:
        """`bf16`, `fp16` or `fp32`, with `auto` resolved for the device."""
        from mae_bench import precision

        return precision.resolve(self.config.precision, self.device)

    def autocast(self) -> AbstractContextManager[None]:
        """The autocast context of the run's precision."""
        from mae_bench import precision

        return precision.autocast(precision.resolve(self.config.precision, self.device), self.device)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over all processes (same shape; exact for integers)."""
        import torch.distributed as dist

        total = values.detach().clone().to(self.device)
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def gather(self, values: Tensor) -> Tensor:
        """``(n_i, ...)`` of every process, in rank order, as one ``(sum n_i, ...)``; sizes may differ."""
        import torch
        import torch.distributed as dist

        values = values.detach().to(self.device).contiguous()
        if self.world == 1:
            return values
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(values)], dtype=torch.int64, device=self.device))
        longest = max(int(size) for size in sizes)
        padded = values.new_zeros((longest, *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])

    def share(self, values: Any) -> Any:
        """What the main process holds, on every process; plain values only."""
        import torch.distributed as dist

        if self.world == 1:
            return values
        held = [values]
        dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    # ------------------------------------------------------------ backbone

    def backbone(self, **options: Any) -> Backbone:
        """Load the configured backbone, write `load_report.json`, record its origin.

        Args:
            options: passed to `mae_bench.backbones.load_backbone` (`image_size`, `drop_path`, ...).

        Raises:
            MaeBenchError: no backbone given, or its weights do not fit (see the load report's rules).
        """
        from mae_bench.backbones import load_backbone

        if self.config.backbone is None:
            raise MaeBenchError(f"{self.config.recipe} needs a backbone: add --backbone {self.adapter.takes}")
        options.setdefault("seed", self.config.seed)
        backbone = load_backbone(self.config.backbone, **options)
        self._same_weights_as_before(backbone.digest)
        if self.is_main and backbone.report is not None:
            backbone.report.save(self.folder / "load_report.json")
        facts = {
            "spec": self.config.backbone,
            "arch": backbone.arch,
            "digest": backbone.digest,
            "params": sum(param.numel() for param in backbone.parameters()),
            "width": backbone.width,
            "depth": backbone.depth,
            "patch_size": None if backbone.hierarchical else list(backbone.patch_size),
            "pretraining": backbone.pretraining,
        }
        self.record(backbone=facts)
        if backbone.report is not None and backbone.report.allowed:
            names = ", ".join(entry.name for entry in backbone.report.allowed)
            came = f"{backbone.report.percent()} % of the backbone's weights came from the checkpoint"
            self.record(notes=[f"{came}; allowed to be missing or left out: {names}"])
        if backbone.report is not None:
            screen.say(backbone.report.summary())
        return backbone

    def _same_weights_as_before(self, digest: str) -> None:
        # A run that goes on with other weights than it began with would be neither's result.
        path = self.folder / "load_report.json"
        if not path.exists():
            return
        before = json.loads(path.read_text()).get("digest_after")
        if before is not None and before != digest:
            raise MaeBenchError(
                f"{self.config.backbone}: the weights changed since this run began ({path}); "
                "start afresh with --force"
            )

    # ------------------------------------------------------------ the record

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl` and tell the mirror, if there is one."""
        if not self.is_main:
            return
        with (self.folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        if self._mirror is not None:
            self._mirror.log(step, values)

    def rewind_log(self, step: int) -> None:
        """Forget what was logged after `step`, and evaluations at it, for they are about to be done again."""
        path = self.folder / "metrics.jsonl"
        if not self.is_main or not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the half-written last line of a killed process; its step is done again
            if entry["step"] < step or (entry["step"] == step and "eval" not in entry):
                kept.append(line)
        write_atomic(path, "".join(line + "\n" for line in kept))

    def record(self, **facts: Any) -> None:
        """Merge facts (``dataset={...}``, ``steps=...``, ``notes=[...]``) into what `result.json` will hold.

        Facts of one task alone go into ``details={...}``; a name that the schema does not know is a fault of
        the adapter, found here rather than after hours of training.
        """
        from mae_bench.results import Result

        unknown = facts.keys() - Result.model_fields.keys()
        if unknown:
            raise ValueError(
                f"results have no field {sorted(unknown)}; facts of a task go into details={{...}}"
            )
        _merge(self._facts, facts)

    def keep(self, outcomes: Mapping[str, Saved]) -> None:
        """Have what came of every sample written beside the result (`mae_bench.outcomes`), by set of samples.

        The main process's, and the latest, as of the evaluation that is reported.
        """
        self._outcomes = outcomes

    def note_unreadable(self, images: Samples) -> None:
        """Name the unreadable images that a neighbour stood in for, on screen and in the result."""
        bad = images.bad_images()
        if bad:
            screen.warn("unreadable images, replaced by a neighbour:\n  " + "\n  ".join(bad))
            self.record(details={"unreadable_images": dict.fromkeys(bad, True)})

    def fact(self, name: str) -> Any:
        """What `record` was told under `name`."""
        return self._facts[name]

    def finish(self, metrics: Mapping[str, float]) -> Result:
        """Write `outcomes.npz`, if any were kept, and `result.json`: from now on the run is finished."""
        from mae_bench.outcomes import write
        from mae_bench.results import Result, write_result

        missing = [
            name for name, known in self.adapter.metrics.items() if not known.optional and name not in metrics
        ]
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if missing or bad:
            raise MaeBenchError(
                f"{self.config.recipe}: the task returned no usable result ("
                + "; ".join(
                    [*(f"{name} is missing" for name in missing), *(f"{name} is not finite" for name in bad)]
                )
                + f"); see {self.folder / 'metrics.jsonl'}"
            )
        result = Result.model_validate(self._result_values(metrics))
        if self.is_main:
            if self._outcomes:
                write(self.folder, self._outcomes)
            write_result(self.folder, result)
        self.barrier()  # before the mirror, for which the others need not wait
        if self.is_main and self._mirror is not None:
            self._mirror.finish(result, self._pictures)
        return result

    def _pictures(self) -> list[str]:
        """Draw what the task draws of a finished run, on this process alone."""
        from mae_bench.adapter import Adapter

        if type(self.adapter).visualize is Adapter.visualize:
            return []
        return self.adapter.visualize(self, [], tracking.PICTURES)

    def _result_values(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        published = recipe.published(self.config)
        known = self.adapter.metrics
        values: dict[str, Any] = {
            "schema": 1,
            "task": self.adapter.task,
            "engine": self.adapter.engine,
            "recipe": self.config.recipe,
            "protocol": self.config.protocol or self.config.recipe,
            "recipe_hash": settings.recipe_hash(self.config),
            "deviations": [
                {"key": d.key, "published": d.published, "ours": d.ours}
                for d in (settings.deviations(self.config, published) if published is not None else [])
            ],
            "notes": list(self.config.notes),
            "backbone": None,
            "seed": self.config.seed,
            "config": settings.plain(self.config),
            "metrics": dict(metrics),
            "units": {
                name: {
                    "unit": known[name].unit,
                    "higher_is_better": known[name].higher_is_better,
                    "label": known[name].label or name,
                }
                for name in metrics
                if name in known
            },
            "precision": self.precision,
            "hardware": self.hardware(),
            "wall_clock_s": round(time.time() - self._started, 1),
            "versions": versions(),
            "started": _iso(self._started),
            "finished": _iso(time.time()),
            "command": ["mae-bench", *sys.argv[1:]] if sys.argv[0].endswith("mae-bench") else list(sys.argv),
        }
        _merge(values, self._facts)
        return values

    def hardware(self) -> dict[str, Any]:
        """What the run is computed on, as `result.json` says it."""
        import torch

        on_gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else _cpu_name(),
            "kind": self.device.type,
            "processes": self.world,
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "peak_memory_gib": round(_peak_memory(self.device) / 2**30, 3),
        }

    def elapsed_before(self, seconds: float) -> None:
        """Count `seconds` of earlier, interrupted work into the run's wall-clock."""
        self._started -= seconds

    @property
    def elapsed(self) -> float:
        """Seconds of work so far, earlier parts of a resumed run included."""
        return time.time() - self._started

    # ------------------------------------------------------------ opening

    def open(self, *, force: bool = False) -> Result | None:
        """Take the folder: write `config.yaml`, or find the earlier work.

        Returns:
            The result, if the run has finished already.

        Raises:
            MaeBenchError: the folder holds another run, or another process works in it.
        """
        from mae_bench.results import read_result

        if self.config.wandb is not None:
            tracking.need_wandb()
        provenance.code()  # read now: the files may be edited before a long run ends
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.main_first():
            if self.is_main:
                if force and self.folder.exists():
                    self._set_aside()
                self.folder.mkdir(exist_ok=True)
                self._take_lock()
                self._write_config()
        result = self.folder / "result.json"
        return read_result(result) if result.exists() else None

    def _set_aside(self) -> None:
        aside = self.folder.with_name(f"{self.folder.name}.old-{dt.datetime.now():%Y%m%d-%H%M%S}")
        shutil.move(self.folder, aside)
        screen.say(f"the earlier run is now {aside}")

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = None
            raise MaeBenchError(f"{self.folder}: another process is working on this run") from None

    def _write_config(self) -> None:
        from mae_bench import yamlfile

        path = self.folder / "config.yaml"
        values = settings.plain(self.config)
        if not path.exists():
            write_atomic(path, yamlfile.dump(values))
            return
        before = settings.later_defaults(type(self.config)) | settings.flatten(yamlfile.load(path).values)
        now = settings.identity_values(self.config)
        changed = [
            f"{key}: {before.get(key)!r} there, {value!r} now"
            for key, value in now.items()
            if before.get(key) != value
        ]
        if changed:
            raise MaeBenchError(
                f"{self.folder} holds another run ({'; '.join(changed[:5])}); "
                "choose another --name or use --force"
            )

    def leave_no_litter(self) -> None:
        """Remove the folder of a run that failed before it had done anything (bad data or weights, say)."""
        won = {
            path.name
            for path in self.folder.iterdir()
            if path.name not in ("config.yaml", ".lock")
            and not path.name.endswith(("_report.json", "_config.py", "_config.yaml"))
        }
        if self._lock is not None and not won:
            shutil.rmtree(self.folder)

    def close(self) -> None:
        """Give the folder back, and leave the mirror of a run that did not finish."""
        if self._mirror is not None:
            self._mirror.close(failed=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _merge(into: dict[str, Any], facts: Mapping[str, Any]) -> None:
    for key, value in facts.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] += value
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")


def _peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or that this process held in memory on a CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or socket.gethostname()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; of this code also a digest of its sources, and its commit."""
    names = ["mae-bench", "torch", "torchvision", "timm", "accelerate", "faster-coco-eval", "numpy", "pillow"]
    found = {"python": platform.python_version()}
    for name in names:
        found[name] = metadata.version(name)
    return found | provenance.code()
