"""Settings of a training by a configuration file of an engine's own; what is common to all engines."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

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
    """The engine's file. Python files are run."""
    native_sha256: str | None = None
    """SHA-256 of what the file says; filled in, and compared where it is given."""
    options: dict[str, Any] = Field(default={})
    """Dotted path -> value, laid over the file's, as the engine's own tools do."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    train: NativeTraining = NativeTraining()
    published_arch: PublishedArch | None = Field(default=None, json_schema_extra=HANDLING)
    """The size of backbone that the file is meant for; another one gives a warning. Null: any."""

    @classmethod
    def located(cls, native: str) -> tuple[str, Path]:
        """What is kept of `native` in the configuration of a run, and the file that it means.

        Raises:
            ValueError: the engine has no such files.
        """
        path = Path(native).expanduser().absolute()
        return str(path), path

    @classmethod
    def digest(cls, path: Path) -> str | None:
        """SHA-256 of what the file says; None: it, or a file that it builds on, is not there."""
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return None

    @model_validator(mode="before")
    @classmethod
    def _know_the_file(cls, values: Any) -> Any:
        """Fill in the digest of the file, or compare it. A finished run is looked at without its file."""
        if not isinstance(values, dict) or not isinstance(values.get("native"), str):
            return values
        kept, path = cls.located(values["native"])
        digest, given = cls.digest(path), values.get("native_sha256")
        if digest is None and given is None:
            raise ValueError(f"native: {values['native']} cannot be read; give a config file of the engine")
        if digest is not None and given not in (None, digest):
            raise ValueError(
                f"native: {values['native']} has changed since; put it back as it was, or start anew"
            )
        return {**values, "native": kept, "native_sha256": digest or given}
