"""Train attention on several processes, each with its part of the batch, and check that they stay one network.

torchrun --nproc-per-node 2 examples/ddp.py

It runs on GPUs if there is one for each process, or else on the CPU with gloo.
"""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from shiftsearch.nn import ShiftedAttention


def network():
    torch.manual_seed(0)
    return ShiftedAttention(8, heads=2, window=5, topk=4)


def loss_of(layer, videos):
    return (layer(videos) - videos).square().mean()


def main(steps=3):
    """Return the largest difference of the weights from those of one process with the whole batch."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpus = torch.cuda.device_count() >= world
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpus else torch.device("cpu")
    dist.init_process_group("nccl" if on_gpus else "gloo")
    alone, together = network().to(device), DistributedDataParallel(network().to(device))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (alone, together)]
    random = torch.Generator().manual_seed(1)
    for step in range(steps):
        videos = torch.randn(2 * world, 3, 8, 16, 20, generator=random).to(device)
        losses = loss_of(alone, videos), loss_of(together, videos[2 * rank : 2 * rank + 2])
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        whole, part = (loss.item() for loss in losses)
        print(f"process {rank} of {world}, step {step}: loss {part:.5f} of its part, {whole:.5f} of all")
    apart = max((a - b).abs().max().item() for a, b in zip(alone.parameters(), together.parameters(), strict=True))
    dist.destroy_process_group()
    assert apart < 1e-5, apart
    print(f"process {rank}: weights differ by {apart:.1e} from those of one process with the whole batch")
    return apart


if __name__ == "__main__":
    main()
