"""Semantic segmentation: UperNet, or a linear head, over a plain ViT.

The adapter (`task`) imports no torch at the top.
"""
