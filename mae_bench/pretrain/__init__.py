"""The masked autoencoder (He et al., arXiv:2111.06377): a task like any other, behind the same door.

This module imports no torch, since listing the adapters must be instant.
"""

from __future__ import annotations

ADAPTERS = {"mae": "mae_bench.pretrain.task:MAEPretraining"}
"""Adapter name -> ``module:Class``."""
