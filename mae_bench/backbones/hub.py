"""Weights that timm downloads, or has cached: what there is, and what timm really loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import timm
from timm.models import load_model_config_from_hf
from timm.models._hub import load_model_config_from_path
from torch import Tensor, nn

from mae_bench.backbones.architecture import known_name
from mae_bench.backbones.loading import Request
from mae_bench.errors import MaeBenchError, near

_ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")


def pretrained(request: Request) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """timm's model of the request's body, the tensors that timm loaded into it, and its further arguments.

    The body is one of timm's names, or ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER`` in timm's format.

    Raises:
        MaeBenchError: timm has no such weights, cannot get them, or loads them in a way of its own.
    """
    elsewhere = request.body.startswith(_ELSEWHERE)
    if not elsewhere:
        _offered(request, known_name(request.body, request.spec))
    with _what_timm_loads() as loaded, hub_in_silence():
        try:
            model: Any = timm.create_model(request.body, pretrained=True)
            arguments = _arguments_elsewhere(request.body) if elsewhere else {}
        except Exception as error:  # Whatever the network, the hub or its client raises.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            if request.body.startswith("local-dir:"):
                folder = request.body.partition(":")[2]
                raise MaeBenchError(
                    f"{request.spec}: {folder} is no folder of a model in timm's format ({reason}); one of "
                    f"transformers is loaded with hf:{folder}"
                ) from error
            arch = "NAME" if elsewhere else request.body
            raise MaeBenchError(
                f"{request.spec}: timm could not get these weights ({reason}). Without a network, copy the "
                f"checkpoint here and use file:PATH?arch={arch}"
            ) from error
    if not loaded:
        raise MaeBenchError(
            f"{request.spec}: timm loaded it in a way that cannot be checked; use file: with its file"
        )
    return model, loaded[-1], arguments


def _arguments_elsewhere(body: str) -> dict[str, Any]:
    """With which arguments a model in timm's format was built, besides the name of its architecture."""
    source, _, place = body.partition(":")
    if source == "local-dir":
        found: dict[str, Any] = load_model_config_from_path(place)[2]
    else:
        found = load_model_config_from_hf(place)[2]
    return {name: value for name, value in (found or {}).items() if name not in ("num_classes", "in_chans")}


def described(model: Any, arch: str) -> str:
    """How a load report names weights of timm: architecture and tag."""
    tag = model.pretrained_cfg.get("tag") or ""
    return f"timm {arch}.{tag}" if tag else f"timm {arch}"


def _offered(request: Request, arch: str) -> None:
    names = [
        name for name in timm.list_models(f"{arch}.*", pretrained=True) if name.partition(".")[0] == arch
    ]
    if not names:
        raise MaeBenchError(f"{request.spec}: timm has no weights for {arch}; untrained it is random:{arch}")
    if "." in request.body and request.body not in names:
        hint = near(request.body, names) or f"; there are {', '.join(names[:6])}"
        raise MaeBenchError(f"{request.spec}: timm has no weights of this name{hint}")


@contextmanager
def hub_in_silence() -> Iterator[None]:
    """Keep the hub's client from telling each of its attempts; what comes of them is said in one sentence."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _what_timm_loads() -> Iterator[list[dict[str, Tensor]]]:
    """Collect the tensors that timm hands to `load_state_dict` of its models meanwhile.

    timm loads leniently for some models and says nothing of what did not match; with the tensors in hand
    the load is checked as strictly as that of a file.
    """
    seen: list[dict[str, Tensor]] = []
    theirs = nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        if hasattr(self, "pretrained_cfg"):
            seen.append(dict(state_dict))
        return theirs(self, state_dict, *args, **kwargs)

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        nn.Module.load_state_dict = theirs  # type: ignore[method-assign]
