"""Image classification: fine-tuning, linear probing, partial fine-tuning, kNN, and training from scratch.

Adapters (`finetune`, `scratch`, `partial`, `linear`, `knn`) import no torch at the top; what computes is in
`classifier` (backbone, pooling, head), `heads` (a grid of linear classifiers), `neighbours` (the kNN vote),
`features` (frozen features, cached on disk) and `scoring` (top-1 and top-5).
"""
