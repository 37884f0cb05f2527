"""Replace the window attention of a video network by shifted search, in one line, and train both for some steps.

python examples/replace_attention.py
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from shiftsearch.nn import GuidedDeformableAttention, ShiftedAttention


class WindowAttention(nn.Module):
    """Attention within fixed windows of each frame, as many networks have it."""

    def __init__(self, dim, heads, window=8):
        super().__init__()
        self.window, self.attention = window, nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x):
        (B, T, C, H, W), n = x.shape, self.window
        windows = x.reshape(B, T, C, H // n, n, W // n, n).permute(0, 1, 3, 5, 4, 6, 2).reshape(-1, n * n, C)
        out, _ = self.attention(windows, windows, windows)
        return out.reshape(B, T, H // n, W // n, n, n, C).permute(0, 1, 6, 2, 4, 3, 5).reshape(x.shape)


class Network(nn.Module):
    def __init__(self, dim=16, heads=2):
        super().__init__()
        self.head = nn.Conv3d(3, dim, (1, 3, 3), padding=(0, 1, 1))
        self.attention = WindowAttention(dim, heads)
        self.tail = nn.Conv3d(dim, 3, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, video):
        x = self.head(video.transpose(1, 2)).transpose(1, 2)
        x = x + self.attention(x)
        return video + self.tail(x.transpose(1, 2)).transpose(1, 2)


def clip_pair(random, frames=3, size=32, sigma=0.2):
    """Return a (noisy, clean) clip of a texture that drifts."""
    texture = F.interpolate(torch.rand(1, 3, size, size, generator=random), scale_factor=2, mode="bicubic")
    clean = torch.stack([texture[0, :, 3 * t : 3 * t + size, 2 * t : 2 * t + size] for t in range(frames)])[None]
    return clean + sigma * torch.randn(clean.shape, generator=random), clean


def loss_after(network, steps):
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        noisy, clean = clip_pair(random)
        loss = F.mse_loss(network(noisy), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def main(steps=50):
    """Return the mean squared error of the last step with both kinds of attention."""
    network = Network()
    before = loss_after(copy.deepcopy(network), steps)
    network.attention = ShiftedAttention(16, heads=2, window=7, topk=8)  # the one line
    after = loss_after(network, steps)
    print(f"mean squared error after {steps} steps: window attention {before:.4f}, shifted search {after:.4f}")

    frames, support, flow = *torch.randn(2, 1, 1, 16, 32, 32), torch.zeros(1, 1, 1, 2, 32, 32)
    for offsets in ("predict", "search"):  # guided deformable attention: the other line
        layer = GuidedDeformableAttention(16, heads=2, offsets=offsets)
        weights = sum(p.numel() for p in layer.parameters())
        out = layer(frames, support, flow)
        print(f"guided deformable attention, offsets={offsets!r}: {weights} weights, out {tuple(out.shape)}")
    return before, after


if __name__ == "__main__":
    main()
