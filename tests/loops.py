"""Helpers of the tests of attention: attention by loops, and receptive fields."""

from __future__ import annotations

import math

import torch

VIT = {"size": 16, "patch": 8, "dim": 12, "depth": 2, "heads": 2}  # a small vision transformer


def randomly(network):
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def heads_of(layer, x):
    """Return q, k, v (N, dim) of tokens (N, dim)."""
    dim = x.shape[-1]
    parts = [x @ layer.weight[n * dim : (n + 1) * dim].T for n in range(3)]
    if layer.bias is not None:
        parts = [part + layer.bias[n * dim : (n + 1) * dim] for n, part in enumerate(parts)]
    return parts


def attention(attn, queries, tokens):
    """Return the attention of queries (M, dim) to tokens (N, dim), one head and one query at a time."""
    q, (_, k, v) = heads_of(attn.qkv, queries)[0], heads_of(attn.qkv, tokens)
    d = q.shape[-1] // attn.heads
    out = torch.zeros_like(queries)
    for h in range(attn.heads):
        own = slice(h * d, (h + 1) * d)
        for n, query in enumerate(q[:, own]):
            weights = torch.stack([(query * key).sum() / math.sqrt(d) for key in k[:, own]]).softmax(0)
            out[n, own] = sum(w * value for w, value in zip(weights, v[:, own], strict=True))
    return attn.proj(out)


def sees(network, video, output, where):
    """Return which frames and pixels of a clip a part of the result depends on."""
    video = video.clone().requires_grad_()
    (grad,) = torch.autograd.grad(output(network, video)[where].sum(), video)
    return grad.abs().sum(2)[0] > 0
