"""Importing this module makes our parts known to mmsegmentation; the config files that we write name it.

So mmsegmentation's own tools build from such a file what we train: ``custom_imports`` in it names this one.
"""

from __future__ import annotations

from downstream.openmmlab.modules import register
from downstream.openmmlab.presence import ready
from downstream.segmentation.mmseg.data import register_data
from downstream.segmentation.mmseg.model import register_models

ready("mmseg")
register()
register_models()
register_data()
