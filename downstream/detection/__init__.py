"""Object detection and instance segmentation: Mask R-CNN over a plain ViT (ViTDet) or a hierarchical one.

Nothing has to be compiled: proposals, sampling and suppression are torchvision's. The adapter (`task`)
imports no torch at the top.
"""
