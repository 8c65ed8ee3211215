"""The generated miniature world: pictures of shapes with their classes, boxes, masks and semantic maps.

Nothing is downloaded: `ensure` draws a world once, from a seed, and writes it in the layout of the real
datasets, so that the demo and the tests run the very code that reads those.
"""

from mae_bench.scenes.draw import Scene, SceneObject
from mae_bench.scenes.plan import Look
from mae_bench.scenes.shapes import CLASSES
from mae_bench.scenes.world import (
    FOLDER,
    SPECS,
    SPLITS,
    WorldSpec,
    digest,
    ensure,
    is_current,
    location,
    scenes,
)

__all__ = [
    "CLASSES",
    "FOLDER",
    "SPECS",
    "SPLITS",
    "Look",
    "Scene",
    "SceneObject",
    "WorldSpec",
    "digest",
    "ensure",
    "is_current",
    "location",
    "scenes",
]
