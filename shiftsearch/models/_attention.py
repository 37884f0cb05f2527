"""The one attention, and the one block around it, of which all these models are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v over (..., heads, N, d).

    The leading axes are joined to one, as torch has fast kernels for that shape only.
    """
    out = F.scaled_dot_product_attention(q.flatten(0, -4), k.flatten(0, -4), v.flatten(0, -4), **options)
    return out.unflatten(0, q.shape[:-3])


class Heads(nn.Module):
    """The linear layers of multi-head attention: for queries, keys and values, and for the output.

    State dict: `qkv` and `proj`, each with `.weight` and `.bias`; `qkv` has no bias with bias=False.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=bias), nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return q, k, v of (..., N, dim), each (..., heads, N, dim / heads)."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)

    def joined(self, x: Tensor) -> Tensor:
        """Join the results of the heads to (..., N, dim), by the output layer."""
        return self.proj(x.transpose(-2, -3).flatten(-2))


class Attention(Heads):
    """Attention among the N tokens of (..., N, dim).

    `mix` may change keys and values before they are used, which is how X-ViT and the cache of AVT differ from the others: it
    is called with k and v, each (..., heads, N, dim / heads), and returns those that are attended to.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, bias=bias)
        self.dropout = dropout

    def forward(self, x: Tensor, *, causal: bool = False, mix: Mix | None = None) -> Tensor:
        q, k, v = self.project(x)
        if mix is not None:
            k, v = mix(k, v)
        dropout = self.dropout if self.training else 0.0
        return self.joined(attend(q, k, v, is_causal=causal, dropout_p=dropout))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, each token by itself."""

    def __init__(self, dim: int, hidden: int, out: int, gelu: str = "none") -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(gelu), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training, x is 0 for a random share of the clips, and scaled up for the others."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(x.shape[:1] + (1,) * (x.ndim - 1), device=x.device) >= self.share
        return x * (kept / (1 - self.share)).to(x.dtype)


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)).

    State dict: `norm1`, `attn`, `norm2`, `mlp.fc1`, `mlp.fc2`.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        *,
        mlp_ratio: int = 4,
        eps: float = 1e-6,
        gelu: str = "none",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn, self.mlp = attention, Mlp(dim, mlp_ratio * dim, dim, gelu)
        self.drop = nn.Sequential(nn.Dropout(dropout), DropPath(drop_path))

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x), **options))
        return self.think(x)

    def think(self, x: Tensor) -> Tensor:
        """Return x + mlp(norm2(x)), the second half of the block."""
        return x + self.drop(self.mlp(self.norm2(x)))


def through(blocks: Iterable[nn.Module], x: Tensor, recompute: bool, **options: Any) -> Tensor:
    """Return x after all blocks; with `recompute`, by gradient checkpointing."""
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False, **options)
        else:
            x = block(x, **options)
    return x


def rising(most: float, depth: int) -> list[float]:
    """Return the probability of stochastic depth of each block: 0 in the first, `most` in the last."""
    return [most * n / max(depth - 1, 1) for n in range(depth)]
