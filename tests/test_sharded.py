"""Networks whose weights are shared out to processes: FSDP of each block gives the gradients of the whole network."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
from torch import distributed as dist  # noqa: E402 - torch may be missing

from shiftsearch.models import ShiftedUNet  # noqa: E402


def _train(rank, store):
    """Compare, in one of two processes, a step of blocks that are sharded with one of the whole network."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = ShiftedUNet(depths=(1, 1), heads=(1, 2), head_dim=4, window=3, topk=2, keep=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    clips, whole = torch.rand(2, 1, 3, 3, 8, 8), copy.deepcopy(network)
    for level in network.levels:
        for block in (*level.down, *level.up):
            fully_shard(block)
    fully_shard(network)
    expected = [whole(clip) for clip in clips]
    sum(one.square().mean() for one in expected).div(2).backward()
    found = network(clips[rank])
    found.square().mean().backward()
    torch.testing.assert_close(found, expected[rank])
    for (name, sharded), wanted in zip(network.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(sharded.grad.full_tensor(), wanted.grad, msg=name)
    dist.destroy_process_group()


@pytest.mark.full
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs torch with gloo")
def test_blocks_that_are_sharded_learn_as_the_whole_network(tmp_path):
    torch.multiprocessing.spawn(_train, (tmp_path / "store",), nprocs=2)
