"""Semantic segmentation: UperNet, or a linear head, over any backbone.

The adapter (`task`) imports no torch at the top.
"""
