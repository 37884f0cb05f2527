"""Calls of all public functions with tensors, for the tests of torch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import shiftsearch as ss

torch = pytest.importorskip("torch")

OPTIONS = {"window": (3, 2), "patch": 2, "topk": 3, "heads": 2}


@dataclass(frozen=True)
class Call:
    """A public function, and tensors of its arguments for frames of a size."""

    function: object
    takes: str

    def tensors(self, dtype=torch.float64, batch=1, height=4, width=5, device="cpu", seed=0):
        random = torch.Generator().manual_seed(seed)
        T, C, K, G, h, w = 3, 4, 2, 2, height, width
        shapes = {
            "q": (batch, T, C, h, w),
            "k": (batch, T, C, h, w),
            "v": (batch, T, C, h, w),
            "flow": (batch, T, 2, 2, h, w),
            "offsets": (batch, G, T, h, w, K, 3),
            "weights": (batch, G, T, h, w, K),
            "frame": (batch, C, h, w),
            "other": (batch, C, h, w),
            "motion": (batch, 2, h, w),
            "patches": (batch, G, T, h, w, K, C // G, 2, 2),
            "forward": (batch, T, 2, h, w),
            "backward": (batch, T, 2, h, w),
            "coarse": (batch, T, 2, h, w),
        }
        found = {}
        for name in self.takes.split():
            found[name] = torch.randn(shapes[name], generator=random, dtype=torch.float64)
            if name in ("flow", "offsets", "motion", "forward", "backward"):  # not near whole pixels, where slopes jump
                whole, part = (
                    torch.randint(-2, 3, shapes[name], generator=random),
                    torch.rand(shapes[name], generator=random),
                )
                found[name] = whole + 0.2 + 0.6 * part.double()
                if name == "offsets":
                    found[name][..., 0] = whole[..., 0]  # frames do not move
        floats = {name: tensor.to(dtype=dtype, device=device) for name, tensor in found.items()}
        return {name: tensor.requires_grad_() for name, tensor in floats.items()}

    def __call__(self, tensors) -> tuple:
        found = self.function(**tensors)
        return found if isinstance(found, tuple) else (found,)


def _fold(patches, offsets, weights):
    return ss.fold(patches, offsets, weights, size=offsets.shape[-5:-2])


CALLS = {
    "search": Call(lambda q, k, flow: ss.search(q, k, flow, subpixel=True, **OPTIONS), "q k flow"),
    "whole search": Call(lambda q, k: ss.search(q, k, **OPTIONS), "q k"),
    "chained search": Call(
        lambda q, k, forward, backward: ss.search(q, k, (forward, backward), subpixel=True, **OPTIONS),
        "q k forward backward",
    ),
    "match": Call(
        lambda frame, other, motion: ss.match(frame, other, motion, subpixel=True, **OPTIONS), "frame other motion"
    ),
    "refine": Call(lambda q, k, offsets: ss.refine(q, k, offsets, subpixel=True, **OPTIONS), "q k offsets"),
    "attend": Call(
        lambda q, k, v, flow: ss.attend(q, k, v, flow, subpixel=True, **{**OPTIONS, "topk": None}), "q k v flow"
    ),
    "attend to a few": Call(lambda q, k, v: ss.attend(q, k, v, return_attention=True, **OPTIONS), "q k v"),
    "score": Call(lambda q, k, offsets: ss.score(q, k, offsets, patch=2, heads=2), "q k offsets"),
    "aggregate": Call(lambda v, weights, offsets: ss.aggregate(v, weights, offsets, patch=2), "v weights offsets"),
    "stack": Call(lambda v, offsets, weights: ss.stack(v, offsets, weights, patch=2), "v offsets weights"),
    "plain stack": Call(lambda v, offsets: ss.stack(v, offsets), "v offsets"),
    "scatter": Call(lambda v, weights, offsets: ss.scatter(v, weights, offsets, patch=2), "v weights offsets"),
    "gather": Call(lambda v, offsets: ss.gather(v, offsets, patch=2, heads=2, queries=slice(1, 3)), "v offsets"),
    "fold": Call(_fold, "patches offsets weights"),
    "chain_flow": Call(lambda forward, backward: ss.chain_flow(forward, backward, radius=1), "forward backward"),
    "upsample_flow": Call(
        lambda coarse: ss.upsample_flow(coarse, (coarse.shape[-2] * 2, coarse.shape[-1] * 3)), "coarse"
    ),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
each_op = pytest.mark.parametrize(
    "name",
    ["search", "match", "refine", "attend", "score", "aggregate", "stack", "scatter", "gather", "fold", "chain_flow"],
)


def loss(call, tensors):
    """Return a number that depends on every output."""
    random = torch.Generator().manual_seed(7)
    floats = [out for out in call(tensors) if out.is_floating_point()]
    return sum((out * torch.randn(out.shape, generator=random, dtype=torch.float64).to(out)).sum() for out in floats)


def gradients(call, tensors) -> dict:
    grads = torch.autograd.grad(loss(call, tensors), list(tensors.values()))
    return dict(zip(tensors, grads, strict=True))
