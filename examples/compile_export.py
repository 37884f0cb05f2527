"""Compile attention by torch.compile without a graph break; export it, save it and load it for any frame size.

python examples/compile_export.py [backend of torch.compile]

The default backend is "inductor", which needs a C++ compiler.
"""

import sys
import tempfile
from pathlib import Path

import torch

from shiftsearch.nn import ShiftedAttention


def largest_difference(found, expected):
    return (found - expected).abs().max().item()


def main(backend="inductor"):
    """Return the largest errors of the compiled program, of its gradients, and of the exported program."""
    torch.manual_seed(0)
    layer = ShiftedAttention(8, heads=2, window=5, topk=4)
    small, large = torch.randn(1, 3, 8, 16, 20), torch.randn(1, 3, 8, 24, 36)
    expected = [layer(video) for video in (small, large)]
    expected_slope = torch.autograd.grad(expected[1].square().sum(), layer.q.weight)[0]

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)  # a graph break would be an error
    found = [compiled(video) for video in (small, large)]
    slope = torch.autograd.grad(found[1].square().sum(), layer.q.weight)[0]
    differences = [max(map(largest_difference, found, expected)), largest_difference(slope, expected_slope)]

    sizes = {3: torch.export.Dim("height", min=8), 4: torch.export.Dim("width", min=8)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention.pt2"
        torch.export.save(torch.export.export(layer.eval(), (small,), dynamic_shapes={"x": sizes}), path)
        program = torch.export.load(path).module()  # where `import shiftsearch` was run
    differences.append(largest_difference(program(large), expected[1]))
    print(f"compiled by {backend}: results differ by {differences[0]:.1e}, gradients by {differences[1]:.1e}")
    print(f"exported at {tuple(small.shape)}, loaded, run at {tuple(large.shape)}: differs by {differences[2]:.1e}")
    return differences


if __name__ == "__main__":
    main(*sys.argv[1:2])
