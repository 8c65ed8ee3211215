"""Settings of a training by a config file of mmengine's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from downstream.openmmlab.native import sha256_of
from mae_bench.settings import HANDLING, Count, Positive, PublishedArch, Settings, TaskConfig


class NativeTraining(Settings):
    """How the file's training is carried out; how long it is, of what batch, is the file's."""

    evaluate_every_epochs: Positive | None = Field(default=None, json_schema_extra=HANDLING)
    """Also evaluate during training (for the curve; never for choosing); null: only at the end."""
    save_every_minutes: Positive = Field(default=15.0, json_schema_extra=HANDLING)
    save_every_steps: Count | None = Field(default=None, json_schema_extra=HANDLING)
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(default=2, json_schema_extra=HANDLING)
    log_every_steps: Count = Field(default=20, json_schema_extra=HANDLING)


class NativeFile(TaskConfig):
    """What every such task has."""

    native: str | None = Field(default=None, json_schema_extra=HANDLING)
    """The file, .py, .yaml or .json. Python files are run."""
    native_sha256: str | None = None
    """SHA-256 of the file and of those it names as its base; filled in, and compared where it is given."""
    options: dict[str, Any] = Field(default={})
    """Dotted path -> value, laid over the file's as the engine's ``--cfg-options`` does."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    train: NativeTraining = NativeTraining()
    published_arch: PublishedArch | None = Field(default=None, json_schema_extra=HANDLING)
    """The size of backbone that the file is meant for; another one gives a warning. Null: any."""

    @model_validator(mode="before")
    @classmethod
    def _know_the_file(cls, values: Any) -> Any:
        """Fill in the digest of the file, or compare it."""
        if not isinstance(values, dict) or not isinstance(values.get("native"), str):
            return values
        path = Path(values["native"]).expanduser()
        digest = sha256_of(path)
        given = values.get("native_sha256")
        if digest is None and given is None:
            raise ValueError(f"native: {path} cannot be read; give a config file of the engine")
        if given not in (None, digest) and digest is not None:
            raise ValueError(f"native: {path} has changed since; put it as it was, or start anew")
        return {**values, "native": str(path.absolute()), "native_sha256": digest or given}
