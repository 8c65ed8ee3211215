"""Drawing of planned scenes: smooth backgrounds, shaded shapes with shadows, and the truth about them.

Many scenes are drawn at once; `N` is their number, `S` the side of an image, `K` the number of objects a
scene may have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mae_bench.scenes.plan import F64, Look, Plan, plan
from mae_bench.scenes.shapes import TABLE_REACH, TABLE_SIDE, distances

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class SceneObject:
    """One object as it appears.

    Attributes:
        category: index into `CLASSES`.
        box: (x0, y0, x1, y1) in pixels, the extent of the visible mask; x1 and y1 are exclusive.
        mask: (S, S) bool, the visible pixels.
        depth: place in the order of occlusion, 0 the farthest; nearer objects hide farther ones.
        covered: part of the object that nearer ones hide, from 0 to 1.
    """

    category: int
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    depth: int
    covered: float


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is in it.

    Attributes:
        image: (S, S, 3) uint8.
        label: class of the image, that of its main object.
        objects: from the farthest to the nearest.
        main: index of the main object in `objects`.
        semantic: (S, S) uint8, 0 for background, else 1 + category of the visible object.
    """

    image: NDArray[np.uint8]
    label: int
    objects: tuple[SceneObject, ...]
    main: int
    semantic: NDArray[np.uint8]


def _coverage(planned: Plan, layer: int, side: int, shift: float = 0.0, blur: float = 1.0) -> F32:
    """Part of each pixel that the object of `layer` covers: (N, S, S) in [0, 1].

    Args:
        shift: displacement away from the light in pixels (for the shadow).
        blur: width of the edge in pixels.
    """
    centre = np.arange(side, dtype=np.float32) + np.float32(0.5)

    def column(values: F64) -> F32:
        return values.astype(np.float32)[:, None, None]

    radius = planned.radius[:, layer]
    dx = centre[None, None, :] - column(planned.x[:, layer] - shift * np.cos(planned.light))
    dy = centre[None, :, None] - column(planned.y[:, layer] - shift * np.sin(planned.light))
    scale = TABLE_SIDE / (2 * TABLE_REACH) / radius
    angle = planned.angle[:, layer]
    cos, sin = column(np.cos(angle) * scale), column(np.sin(angle) * scale)
    u = (cos * dx + sin * dy + np.float32(TABLE_SIDE / 2)).astype(np.int32)
    v = (cos * dy - sin * dx + np.float32(TABLE_SIDE / 2)).astype(np.int32)
    np.clip(u, 0, TABLE_SIDE - 1, out=u)
    np.clip(v, 0, TABLE_SIDE - 1, out=v)
    v *= TABLE_SIDE
    v += u
    v += (planned.category[:, layer].astype(np.int32) * TABLE_SIDE**2)[:, None, None]
    gap = distances().ravel()[v] * column(radius / blur)
    covered = np.clip(np.float32(0.5) - gap, 0.0, 1.0)
    covered[~planned.present[:, layer]] = 0.0
    return covered


def _ramp(direction: F64, side: int) -> F32:
    """A plane that rises from -1 to 1 across the image towards `direction`: (N, S, S)."""
    centre = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / side) - np.float32(1)
    cos, sin = np.cos(direction).astype(np.float32), np.sin(direction).astype(np.float32)
    return cos[:, None, None] * centre[None, None, :] + sin[:, None, None] * centre[None, :, None]


def _owners(covers: Sequence[F32]) -> NDArray[np.int8]:
    """Which layer each pixel shows, -1 for the background: (N, S, S)."""
    owner = np.full(covers[0].shape, -1, dtype=np.int8)
    for layer, covered in enumerate(covers):
        owner[covered >= 0.5] = layer
    return owner


def _paint(planned: Plan, covers: Sequence[F32], side: int) -> NDArray[np.uint8]:
    """The pictures: (N, S, S, 3)."""
    ends = planned.ends.astype(np.float32)[:, None, None]  # (N, 1, 1, 2, 3)
    middle, slope = (ends[..., 0, :] + ends[..., 1, :]) / 2, (ends[..., 1, :] - ends[..., 0, :]) / 2
    image = middle + _ramp(planned.tilt, side)[..., None] * slope
    # The lit side of everything is brighter, its far side darker.
    glow = 1 + planned.strength.astype(np.float32)[:, None, None] * _ramp(planned.light, side)
    for layer, covered in enumerate(covers):
        shadow = _coverage(planned, layer, side, shift=0.04 * side, blur=0.1 * side)
        image *= (1 - np.float32(0.35) * shadow)[..., None]
        paint = planned.colour[:, layer].astype(np.float32)[:, None, None]
        image += covered[..., None] * (paint - image)
    image *= glow[..., None]
    return (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def draw(look: Look, side: int, seed: int, split: int, indices: Sequence[int]) -> list[Scene]:
    """The scenes with the given indices of a split; the class of an image is its index modulo ten.

    Each scene is a function of (look, side, seed, split, index) alone.
    """
    numbers = np.asarray(indices, dtype=np.int64)
    planned = plan(look, side, seed, split, numbers)
    layers = range(look.others + 1)
    covers = [_coverage(planned, layer, side) for layer in layers]
    whole = np.stack([(covered >= 0.5).sum(axis=(1, 2)) for covered in covers], axis=1)  # (N, K)
    owner = _owners(covers)
    seen = np.stack([(owner == layer).sum(axis=(1, 2)) for layer in layers], axis=1)  # (N, K)
    # Leaving an object out only uncovers others, so one pass is enough.
    shown = planned.present & (seen >= np.maximum(look.least_visible * whole, 1))
    shown[np.arange(len(numbers)), planned.main] = True
    planned = replace(planned, present=shown)
    covers = [covered * shown[:, layer, None, None] for layer, covered in enumerate(covers)]
    owner = _owners(covers)
    images = _paint(planned, covers, side)
    return [_scene(planned, row, images[row], owner[row], whole[row]) for row in range(len(numbers))]


def _scene(
    planned: Plan, row: int, image: NDArray[np.uint8], owner: NDArray[np.int8], whole: NDArray[np.int64]
) -> Scene:
    """One scene; `owner` (S, S) is the layer each pixel shows, `whole` (K,) the areas unhidden."""
    objects: list[SceneObject] = []
    semantic = np.zeros(owner.shape, dtype=np.uint8)
    main = 0
    for layer in np.flatnonzero(planned.present[row]):
        mask = owner == layer
        xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if layer == planned.main[row]:
            main = len(objects)
        category = int(planned.category[row, layer])
        semantic[mask] = 1 + category
        objects.append(
            SceneObject(
                category=category,
                box=(int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1),
                mask=mask,
                depth=len(objects),
                covered=1.0 - float(mask.sum()) / float(whole[layer]),
            )
        )
    return Scene(image, objects[main].category, tuple(objects), main, semantic)
