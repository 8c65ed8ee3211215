"""The generated miniature world: pictures of shapes with their classes, boxes, masks and semantic maps.

Nothing is downloaded: `ensure` draws a world once, from a seed, and writes it in the layouts of the real
datasets, so that the demo and the tests run the very code that reads those.
"""

from mae_bench.scenes.draw import Scene, SceneObject
from mae_bench.scenes.plan import Look
from mae_bench.scenes.shapes import CLASSES
from mae_bench.scenes.specs import SPECS, SPLITS, CorruptedSpec, DenseSpec, FacesSpec, WorldSpec, scenes
from mae_bench.scenes.world import FOLDER, digest, ensure, is_current, location

__all__ = [
    "CLASSES",
    "FOLDER",
    "SPECS",
    "SPLITS",
    "CorruptedSpec",
    "DenseSpec",
    "FacesSpec",
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
