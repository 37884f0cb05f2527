"""Run the same search on arrays of NumPy, torch and, on a GPU, CuPy: each library gets its own arrays back.

python examples/interchange.py
"""

import numpy as np
import torch

import shiftsearch

OPTIONS = {"window": 5, "patch": 3, "topk": 4}


def gpu_arrays():
    """CuPy, if it is installed and has a GPU."""
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # not installed, no driver, no device
        print(f"CuPy is left out: {type(error).__name__}")
        return None
    return cupy


def average(scores, video, offsets, exp):
    weights = exp(-scores / 27)  # a patch has 27 values
    return shiftsearch.aggregate(video, weights / weights.sum(-1)[..., None], offsets, patch=3)


def main(frames=3, height=32, width=40):
    """Return {library: largest difference from NumPy's result}."""
    video = np.random.default_rng(0).standard_normal((frames, 3, height, width), np.float32)
    scores, offsets = shiftsearch.search(video, video, **OPTIONS)
    expected, differences = average(scores, video, offsets, np.exp), {}

    tensor = torch.from_numpy(video)  # the same memory
    scores, offsets = shiftsearch.search(tensor, tensor, **OPTIONS)
    found = average(scores, tensor, offsets, torch.exp)
    differences["torch"] = abs(found.numpy() - expected).max()

    cupy = gpu_arrays()
    if cupy is not None:
        array = cupy.asarray(video)
        scores, offsets = shiftsearch.search(array, array, **OPTIONS)
        found = average(scores, array, offsets, cupy.exp)
        differences["cupy"] = abs(cupy.asnumpy(found) - expected).max()
        on_gpu = torch.from_dlpack(found)  # CuPy to torch and back, the same memory on the GPU
        assert cupy.from_dlpack(on_gpu).data.ptr == found.data.ptr

    try:  # nothing moves silently
        shiftsearch.search(video, tensor, **OPTIONS)
    except shiftsearch.ShiftsearchError as error:
        print(error)
    for library, difference in differences.items():
        print(f"{library}: differs by {difference:.1e} from NumPy")
    return differences


if __name__ == "__main__":
    main()
