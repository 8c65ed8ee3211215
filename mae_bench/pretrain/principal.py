"""The largest principal components of patches, as a target (He et al., arXiv:2111.06377, Table 1d).

The paper takes the 96 largest PCA coefficients of the patch space and says no more. Here the components are
those of the patches of some thousand training images, cut and normalised as the model sees them; coefficients
are not scaled, so each counts by its variance.

Legend: V values in a patch, Q components.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mae_bench.errors import MaeBenchError
from mae_bench.pretrain.targets import patchify

if TYPE_CHECKING:
    from mae_bench.pretrain.task import MAEConfig
    from mae_bench.run import Run

# Images that are read at a time.
BATCH = 64


class PrincipalComponents(nn.Module):
    """Coefficients of patches, and back.

    Until `set` or a checkpoint fills it, everything it gives is NaN: no run trains on components that were
    never found.

    Args:
        values: V.
        count: Q.

    Raises:
        MaeBenchError: Q is more than V.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, values: int, count: int) -> None:
        super().__init__()
        if count > values:
            raise MaeBenchError(f"pca.coefficients: a patch has {values} values, so not {count} components")
        self.register_buffer("mean", torch.full((values,), torch.nan))
        self.register_buffer("components", torch.full((values, count), torch.nan))

    def forward(self, patches: Tensor) -> Tensor:
        """``(..., V)`` to ``(..., Q)``, in the precision of the patches whatever autocast says."""
        with torch.autocast(patches.device.type, enabled=False):
            return (patches - self.mean) @ self.components

    def undo(self, coefficients: Tensor) -> Tensor:
        """``(..., Q)`` to the patches ``(..., V)`` with these coefficients and none for the rest."""
        with torch.autocast(coefficients.device.type, enabled=False):
            return coefficients @ self.components.T + self.mean

    def set(self, total: Tensor, products: Tensor, count: int) -> None:
        """Take the components of `count` patches.

        Args:
            total: sum of the patches, float64 ``(V,)``.
            products: sum of their outer products, float64 ``(V, V)``.
            count: how many there were.
        """
        mean = total / count
        variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        largest = vectors[:, variances.argsort(descending=True)[: self.components.shape[1]]]
        # A component and its negative are the same one; its largest entry is made positive.
        peaks = largest.gather(0, largest.abs().argmax(0, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_(largest * peaks.sign())


@torch.no_grad()
def find(target: PrincipalComponents, config: MAEConfig, run: Run, patch: tuple[int, int]) -> None:
    """Find the components of `config.pca.images` training images, evenly spread over the dataset.

    Each process reads its part of the images, and all come to the same components.

    Raises:
        MaeBenchError: the data cannot be opened, or an image cannot be read.
    """
    from mae_bench import data
    from mae_bench.augment import normalise

    assert config.pca is not None
    images = data.train_dataset(config.data, run.data_root, config.seed, labelled=False, mean=config.mean)
    wanted = min(config.pca.images, len(images))
    chosen = images.subset([number * len(images) // wanted for number in range(wanted)])
    values = len(target.mean)
    sums = torch.zeros(values * (values + 1) + 1, dtype=torch.float64, device=run.device)
    total, products, count = sums[:values], sums[values:-1].view(values, values), sums[-1:]
    batches = data.evaluation_batches(
        chosen, batch=BATCH, rank=run.rank, world=run.world, workers=config.data.workers
    )
    for batch in batches:
        pixels = normalise(batch["image"].to(run.device), config.mean, config.std)
        patches = patchify(pixels, patch).flatten(0, 1).double()
        total += patches.sum(0)
        products += patches.T @ patches
        count += len(patches)
    everyone = run.sum(sums)
    target.set(everyone[:values], everyone[values:-1].view(values, values), int(everyone[-1]))
