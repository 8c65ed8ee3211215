"""Evaluate the weights of a finished run in this launch's processes: RUN FOLDER DATA."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from mae_bench import outcomes, recipe
from mae_bench.run import Run


def main(run_folder: Path, folder: Path, data_root: Path) -> None:
    """Print the metrics as JSON, after whatever the evaluation prints."""
    resolved = recipe.resolve(str(run_folder / "config.yaml"))
    adapter = resolved.adapter_class(resolved.config)
    run = Run(adapter, folder, data_root=data_root, runs_root=folder.parent)
    run.open()
    model = adapter.model(adapter.backbone(run), run)  # type: ignore[attr-defined]
    model.load_state_dict(load_file(run_folder / "model.safetensors"))
    with torch.no_grad():
        metrics = adapter.evaluate(model.to(run.device).eval(), run)  # type: ignore[attr-defined]
    if run.is_main:
        outcomes.write(folder, run._outcomes)
        print(json.dumps(metrics))
    run.barrier()
    run.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
