"""Started on two processes: batch norms that share statistics do with half a batch each what one does with all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mae_bench.norms import SharedBatchNorm2d, apart, synchronised
from tests.closed_form import numbers

SHARES = (3, 1)
"""Images of each process: unequal, which a mean of means would get wrong."""


def passed(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Two training steps' outputs; then gradients and running statistics."""
    outs = []
    for step in range(2):
        out = model(x + step)
        (out * weights(out)).sum().backward()
        outs.append(out.detach())
    return [*outs, *model.buffers(), *(param.grad for param in model.parameters() if param.grad is not None)]


def weights(out: Tensor) -> Tensor:
    """Weights of the loss, each image's own."""
    every = numbers((sum(SHARES), *out.shape[1:]), 1)
    return every if len(out) == sum(SHARES) else every.split(SHARES)[dist.get_rank()]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    ).double()


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    x = numbers((sum(SHARES), 2, 3, 4), 2)
    wanted = passed(model(), x)
    shared = synchronised(model())
    assert [type(part) for part in shared][1::2] == [SharedBatchNorm2d] * 2  # type: ignore[arg-type]
    assert list(shared.state_dict()) == list(model().state_dict())
    found = passed(shared, x.split(SHARES)[rank])
    for index, (one, whole) in enumerate(zip(found, wanted, strict=True)):
        if index < 2:
            whole = whole.split(SHARES)[rank]
        elif index >= len(found) - len(list(shared.parameters())):
            dist.all_reduce(one)
        torch.testing.assert_close(one, whole, rtol=1e-6, atol=1e-6)
    if rank == 0:
        with apart(shared):  # the other process never comes here: this must not wait for it
            shared(x)
        assert all(part.training for part in shared.modules())
    dist.barrier()
    if rank == 0:
        print("the same")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
