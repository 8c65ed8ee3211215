"""Importing this module makes our parts known to MMDetection; the config files that we write name it.

So MMDetection's own tools build from such a file what we train: ``custom_imports`` in it imports this module.
"""

from __future__ import annotations

from downstream.detection.mmdet.data import register_data
from downstream.detection.mmdet.model import register_models
from downstream.openmmlab.modules import register
from downstream.openmmlab.presence import ready

ready("mmdet")
register()
register_models()
register_data()
