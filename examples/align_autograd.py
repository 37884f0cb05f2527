"""Learn the flow between two frames by gradient descent: search and aggregate pass gradients on to it.

A coarse flow is upsampled, followed to places between pixels, and changed until the pixels there look like the frame.

python examples/align_autograd.py
"""

import torch

import shiftsearch


def frames_and_flow(height, width, seed=0):
    """Return a frame of smooth texture, the same turned and moved, and the flow from the first to the second."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    flow = torch.stack((2.4 - 0.03 * y, 0.03 * x - 1.7))  # dx, dy
    frequency, phase = torch.randn(2, 40, generator=random) / 6, 6.3 * torch.rand(3, 40, generator=random)

    def texture(x, y):
        waves = frequency[0] * x[..., None] + frequency[1] * y[..., None]
        return torch.sin(waves + phase[:, None, None]).mean(-1) * 6

    # what lies at p in the first frame lies at p + flow(p) in the second: a few steps of iteration invert that
    u, v = x, y
    for _ in range(20):
        u, v = x - (2.4 - 0.03 * v), y - (0.03 * u - 1.7)
    return texture(x, y), texture(u, v), flow


def main(height=64, width=80, steps=150):
    """Return the mean end-point error before and after, in pixels."""
    frame, moved, truth = frames_and_flow(height, width)
    clip = torch.stack((frame, moved))
    coarse = torch.zeros(2, height // 8, width // 8, requires_grad=True)
    optimizer = torch.optim.Adam([coarse], lr=0.05)

    def error():
        off = shiftsearch.upsample_flow(coarse.detach(), (height, width)) - truth
        return off.norm(dim=0)[8:-8, 8:-8].mean().item()

    before = error()
    for step in range(steps):
        flow = shiftsearch.upsample_flow(coarse, (height, width))
        # one candidate, the place between pixels where the flow leads; gradients of its offset reach the flow
        _, offsets = shiftsearch.match(clip[0], clip[1], flow, window=1, topk=1, subpixel=True)
        to_second = torch.nn.functional.pad(offsets, (1, 0), value=1.0)[:, None].expand(-1, 2, -1, -1, -1, -1)
        weights = torch.ones_like(to_second[..., 0])
        warped = shiftsearch.aggregate(clip, weights, to_second)[0]
        loss = (warped - frame).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step:3}: difference {loss.item():.3f}, error of the flow {error():.2f} pixels")
    return before, error()


if __name__ == "__main__":
    main()
