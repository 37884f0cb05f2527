"""The same search in hand-written C++ and in torch, to measure shiftsearch against.

Here frames have their number in the video: `places` (T, h, w, K, 3) are (frame, row, column). `flow` (T, 3, h, w, 2) is in
whole pixels, (dy, dx), to the frames t - 1 .. t + 1 in order of time, shifted into the clip at its ends.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

import shiftsearch

T, WINDOW, TOPK = 5, 9, 10


# --- from our conventions -------------------------------------------------------------------------
def first_frames():
    """Return the first of the three frames that each frame looks at."""
    return shiftsearch.neighbours(T, 1).min(1)


def as_flow(flow):
    """Return flow (T, 2, 2, h, w) of `shiftsearch.search` in this form."""
    order, first = shiftsearch.neighbours(T, 1), first_frames()
    out = np.zeros((T, 3, *flow.shape[-2:], 2), np.int32)
    for t, slot in np.ndindex(T, 2):
        out[t, order[t, slot + 1] - first[t]] = np.moveaxis(flow[t, slot, ::-1], 0, -1)
    return out


def as_places(offsets, stride):
    """Return offsets (1, T, h, w, K, 3) as places."""
    t, y, x = np.ogrid[:T, : offsets.shape[2], : offsets.shape[3]]
    query = np.stack(np.broadcast_arrays(t, y * stride, x * stride), -1)
    return np.ascontiguousarray(offsets[0] + query[..., None, :], np.int32)


# --- C++ ------------------------------------------------------------------------------------------
class Yardstick:
    """yardstick.cpp, compiled for this machine."""

    flags = ("-O3", "-march=native", "-shared", "-fPIC", "-fopenmp")

    def __init__(self, folder):
        library = Path(folder) / "yardstick.so"
        subprocess.run(
            ["g++", *self.flags, Path(__file__).parent / "yardstick.cpp", "-o", library],
            check=True,
            capture_output=True,
        )
        self.library = ctypes.CDLL(str(library))
        self.library.set_threads(1)

    @staticmethod
    def missing():
        """Return why it cannot run here, or None."""
        if shutil.which("g++") is None:
            return "there is no g++"
        text = "#include <immintrin.h>\n#ifndef __AVX512F__\n#error\n#endif\n"
        made = subprocess.run(
            ["g++", "-march=native", "-E", "-x", "c++", "-"], input=text, text=True, capture_output=True
        )
        return "this CPU has no AVX-512" if made.returncode else None

    def _call(self, name, arrays, video, grid, stride, patch, outputs):
        sizes = (*video.shape, *grid, stride, patch, TOPK)
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (*arrays, *outputs)]
        n = len(arrays)
        if not getattr(self.library, name)(*pointers[:n], *sizes, *pointers[n:]):
            raise RuntimeError(f"{name} is not compiled for {video.shape} and patch {patch}")
        return outputs

    def search(self, q, k, flow, stride, patch):
        grid = flow.shape[2:4]
        outputs = np.empty((T, *grid, TOPK), np.float32), np.empty((T, *grid, TOPK, 3), np.int32)
        return self._call("search", (q, k, flow), q, grid, stride, patch, outputs)

    def aggregate(self, v, weights, places, patch):
        return self._call("aggregate", (v, weights, places), v, weights.shape[1:3], 1, patch, (np.empty_like(v),))[0]

    def backward(self, q, k, grad, places, patch):
        outputs = np.empty_like(q), np.empty_like(k)
        return self._call("backward", (q, k, grad, places), q, grad.shape[1:3], 1, patch, outputs)


# --- torch ------------------------------------------------------------------------------------------
class Torch:
    """The same with torch alone: it gathers rows of unfolded patches, some queries at a time."""

    floats = 1_000_000  # gathered at once; 0.1 to 16 million were tried

    def __init__(self):
        import torch

        self.torch = torch
        torch.set_num_threads(1)

    def _patches(self, video, patch):
        """Return the patch around every pixel, (T * H * W, C * patch**2)."""
        torch, r = self.torch, patch // 2
        video = torch.nn.functional.pad(video, (r, r, r, r), mode="reflect") if r else video
        return torch.nn.functional.unfold(video, patch).transpose(1, 2).flatten(0, 1)

    def _chunks(self, count, each):
        size = max(1, self.floats // each)
        return [slice(a, a + size) for a in range(0, count, size)]

    def search(self, q, k, flow, stride, patch):
        torch, (H, W), (h, w) = self.torch, q.shape[-2:], flow.shape[2:4]
        keys = self._patches(torch.from_numpy(k), patch).contiguous()
        queries = self._patches(torch.from_numpy(q), patch).view(T, H, W, -1)[:, ::stride, ::stride].flatten(0, 2)
        y, x, i = (torch.arange(n) for n in (h, w, WINDOW))
        flow = torch.from_numpy(flow)
        y = ((y * stride)[:, None] + flow[..., 0] - WINDOW // 2).clamp(0, H - WINDOW)
        x = (x * stride + flow[..., 1] - WINDOW // 2).clamp(0, W - WINDOW)
        frame = torch.from_numpy(first_frames())[:, None] + torch.arange(3)
        place = (frame[:, :, None, None] * H + y) * W + x  # (T, 3, h, w): first of each window
        place = place.permute(0, 2, 3, 1).reshape(-1, 3, 1) + (i[:, None] * W + i).flatten()
        place = place.flatten(1)
        scores = torch.empty(len(place), TOPK)
        kept = torch.empty(len(place), TOPK, dtype=torch.long)
        for part in self._chunks(len(place), place.shape[1] * keys.shape[1]):
            rows = keys[place[part].flatten()].view(*place[part].shape, -1)
            rows -= queries[part, None]
            distance = torch.linalg.vector_norm(rows, dim=2).square_()
            scores[part], best = torch.topk(distance, TOPK, dim=1, largest=False)
            kept[part] = place[part].gather(1, best)
        places = torch.stack([kept // (H * W), kept // W % H, kept % W], -1).int()
        return scores.view(T, h, w, -1).numpy(), places.view(T, h, w, -1, 3).numpy()

    def _flat(self, places, H, W):
        places = self.torch.from_numpy(places).long()
        return ((places[..., 0] * H + places[..., 1]) * W + places[..., 2]).view(-1, TOPK)

    def _fold(self, rows, H, W, patch):
        """Return rows (T * H * W, C * patch**2) added up to videos."""
        r = patch // 2
        rows = rows.view(T, H * W, -1).transpose(1, 2)
        return self.torch.nn.functional.fold(rows, (H + 2 * r, W + 2 * r), patch)[..., r : r + H, r : r + W]

    def aggregate(self, v, weights, places, patch):
        torch, (H, W) = self.torch, v.shape[-2:]
        values, places = self._patches(torch.from_numpy(v), patch).contiguous(), self._flat(places, H, W)
        weights, out = torch.from_numpy(weights).view(-1, 1, TOPK), torch.empty_like(values)
        for part in self._chunks(len(out), TOPK * values.shape[1]):
            rows = values[places[part].flatten()].view(-1, TOPK, values.shape[1])
            out[part] = torch.bmm(weights[part], rows)[:, 0]
        cover = self._fold(torch.ones(T * H * W, patch**2), H, W, patch)
        return (self._fold(out, H, W, patch) / cover).numpy()

    def backward(self, q, k, grad, places, patch):
        torch, (H, W) = self.torch, q.shape[-2:]
        q, k = (torch.from_numpy(a).clone().requires_grad_() for a in (q, k))
        rows_q, rows_k = self._patches(q, patch), self._patches(k, patch)
        queries, keys = rows_q.detach().contiguous(), rows_k.detach().contiguous()
        grad_q, grad_k = torch.empty_like(queries), torch.zeros_like(keys)
        places, grad = self._flat(places, H, W), 2 * torch.from_numpy(grad).view(-1, TOPK, 1)
        for part in self._chunks(len(queries), TOPK * queries.shape[1]):
            there = places[part].flatten()
            moved = grad[part] * (queries[part, None] - keys[there].view(-1, TOPK, keys.shape[1]))
            grad_q[part] = moved.sum(1)
            grad_k.index_add_(0, there, moved.flatten(0, 1), alpha=-1)
        torch.autograd.backward([rows_q, rows_k], [grad_q, grad_k])
        return q.grad.numpy(), k.grad.numpy()
