"""Array libraries: results belong to the library of the inputs, inputs are not changed, and libraries are not mixed."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError

SIZE = (2, 3, 4, 6, 7)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def video(rng):
    return rng.standard_normal(SIZE).astype(np.float32)


def every_op(v, flow, weights, offsets):
    """Return the results of all public functions of arrays, by name."""
    options = {"window": 3, "topk": 2}
    patches = ss.gather(v, offsets, patch=3)
    return {
        "search": ss.search(v, v, flow, **options),
        "match": ss.match(v[:, 0], v[:, 1], flow[:, 0, 0], **options),
        "refine": ss.refine(v, v, offsets, **options),
        "score": (ss.score(v, v, offsets),),
        "aggregate": (ss.aggregate(v, weights, offsets, patch=2),),
        "stack": (ss.stack(v, offsets, weights),),
        "scatter": (ss.scatter(v, weights, offsets),),
        "gather": (patches,),
        "fold": ss.fold(patches, offsets, weights, size=SIZE[1:2] + SIZE[3:]),
        "chain_flow": (ss.chain_flow(v[:, :, :2], v[:, :, 2:], radius=1),),
        "upsample_flow": (ss.upsample_flow(flow, (12, 14)),),
    }


def inputs(rng, dtype=np.float32):
    offsets = rng.integers(-2, 3, (2, 1, 3, 6, 7, 3, 3)).astype(np.int32)
    found = (
        rng.standard_normal(SIZE),
        rng.integers(-9, 9, (2, 3, 2, 2, 6, 7)) / 4,
        rng.standard_normal(offsets.shape[:-1]),
    )
    return *(array.astype(dtype) for array in found), offsets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_gives_numpy_of_the_same_dtype(dtype, rng):
    for name, results in every_op(*inputs(rng, dtype)).items():
        for result in results:
            assert type(result) is np.ndarray, name
            assert result.dtype in (dtype, np.int32), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_gives_torch_with_the_numbers_of_numpy(torch, dtype, rng):
    arrays = inputs(rng, dtype)
    expected = every_op(*arrays)
    for name, results in every_op(*map(torch.from_numpy, arrays)).items():
        for result, wanted in zip(results, expected[name], strict=True):
            assert isinstance(result, torch.Tensor), name
            np.testing.assert_array_equal(result.numpy(), wanted, err_msg=name)


def test_torch_memory_is_not_copied_on_the_way_in(torch, video):
    from shiftsearch._homes import Torch

    tensor = torch.from_numpy(video)
    for strided in (tensor, tensor.transpose(3, 4), tensor[..., ::2], tensor[:, :, 0]):
        array = Torch(strided).take("search", "q", strided)
        assert array.ctypes.data == strided.data_ptr()
        assert array.strides == tuple(4 * n for n in strided.stride())
    assert Torch(None).give(video).data_ptr() == video.ctypes.data


def test_half_precision_keeps_its_dtype_in_values_and_scores_in_single(rng):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype in (np.float16, bfloat16):
        arrays = inputs(rng, dtype)
        assert arrays[0].dtype == dtype
        single = every_op(*(a if a.dtype == np.int32 else a.astype(np.float32) for a in arrays))
        for name, results in every_op(*arrays).items():
            if name == "upsample_flow":
                continue
            for i, (result, wanted) in enumerate(zip(results, single[name], strict=True)):
                scores = name in ("search", "match", "refine", "score") or (name == "fold" and i == 1)
                assert result.dtype == (wanted.dtype if scores else dtype), name
                if name != "fold":  # fold adds patches that have been rounded
                    np.testing.assert_array_equal(result, wanted.astype(result.dtype), err_msg=name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_torch_half_precision_is_that_of_numpy(torch, dtype, rng):
    v, flow, weights, offsets = inputs(rng)
    halves = [torch.from_numpy(a).to(getattr(torch, dtype)) for a in (v, flow, weights)]
    single = [a.float().numpy() for a in halves]
    for name, results in every_op(*halves, torch.from_numpy(offsets)).items():
        assert all(isinstance(result, torch.Tensor) for result in results), name
    scores, found = ss.search(halves[0], halves[0], halves[1], window=3, topk=2)
    expected = ss.search(single[0], single[0], single[1], window=3, topk=2)
    assert scores.dtype == torch.float32
    np.testing.assert_array_equal(scores.numpy(), expected[0])
    np.testing.assert_array_equal(found.numpy(), expected[1])
    out = ss.aggregate(halves[0], halves[2], torch.from_numpy(offsets))
    assert out.dtype == halves[0].dtype
    rounded = torch.from_numpy(ss.aggregate(single[0], single[2], offsets)).to(out.dtype)
    assert torch.equal(out, rounded)


def test_half_precision_values_take_weights_in_single(rng):
    v, _, weights, offsets = inputs(rng)
    out = ss.aggregate(v.astype(np.float16), weights, offsets)
    assert out.dtype == np.float16
    np.testing.assert_array_equal(
        out, ss.aggregate(v.astype(np.float16).astype(np.float32), weights, offsets).astype(np.float16)
    )


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.float32, np.float64, np.float16])
def test_offsets_may_be_any_whole_or_fractional_numbers(dtype, rng):
    v, _, weights, offsets = inputs(rng)
    found = ss.aggregate(v, weights, offsets.astype(dtype), patch=2)
    np.testing.assert_allclose(found, ss.aggregate(v, weights, offsets, patch=2), rtol=0, atol=1e-5)


@pytest.mark.full
def test_huge_whole_offsets_are_somewhere_in_the_frame(rng):
    v, _, weights, offsets = inputs(rng)
    for value in (2**62, -(2**62), 2**31 - 1, -(2**31)):
        out = ss.aggregate(v, weights, np.full(offsets.shape, value), patch=2)
        assert np.isfinite(out).all()


class Elsewhere:
    """An array that claims to be on some device."""

    def __init__(self, kind, index=0):
        self.shape, self.ndim, self.dtype, self._device = SIZE, 5, np.dtype(np.float32), (kind, index)

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, **_):
        raise BufferError("cannot be read here")

    def __array_namespace__(self, **_):
        return np


def test_arrays_on_a_gpu_are_not_moved_silently():
    with pytest.raises(ShiftsearchError, match=r"search: .*cuda:1"):
        ss.search(Elsewhere(2, 1), Elsewhere(2, 1))


@pytest.mark.parametrize(
    ("k", "said"),
    [
        (Elsewhere(2), "q from numpy on cpu, k from .* on cuda:0"),
        (Elsewhere(4), r"k is on an OpenCL device, expected the CPU or a CUDA device: move it to main memory"),
        (Elsewhere(8), r"k is on Apple's GPU \(MPS\)"),
        (Elsewhere(10), r"k is on an AMD GPU \(ROCm\)"),
        (Elsewhere(14), r"k is on an Intel GPU \(oneAPI\)"),
        (Elsewhere(99), "k is on device type 99"),
        ([1.0], "k is a list"),
    ],
)
def test_kinds_are_not_mixed(k, said, video):
    with pytest.raises(ShiftsearchError, match=f"search: .*{said}"):
        ss.search(video, k)


def test_devices_are_not_mixed():
    with pytest.raises(ShiftsearchError, match=r"search: .*cuda:0.*cuda:1"):
        ss.search(Elsewhere(2, 0), Elsewhere(2, 1))


def test_libraries_and_dtypes_are_not_mixed(torch, video, rng):
    with pytest.raises(ShiftsearchError, match=r"search: .*numpy.*torch"):
        ss.search(video, torch.from_numpy(video))
    with pytest.raises(ShiftsearchError, match="search: k is float64, expected float32 as q is"):
        ss.search(video, video.astype(np.float64))
    with pytest.raises(ShiftsearchError, match=r"search: .*numpy.*torch"):
        ss.search(video, video, torch.zeros(2, 3, 2, 2, 6, 7))


def test_an_array_whose_library_hands_out_nothing_is_an_error():
    with pytest.raises(ShiftsearchError, match="search: "):
        ss.search(Elsewhere(1), Elsewhere(1))


# --- other libraries --------------------------------------------------------------------------------
class Exported:
    """An array of a library that hands its arrays out by DLPack, and does nothing else."""

    def __init__(self, array):
        self._array = array

    def __getitem__(self, key):
        return type(self)(self._array[key])

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)


class Placed(Exported):
    """One that says on which device it is."""

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Standard(Placed):
    """One of the array API standard, whose library takes arrays, too."""

    @property
    def shape(self):
        return self._array.shape

    def __array_namespace__(self, **_):
        return types.SimpleNamespace(from_dlpack=lambda array: Standard(np.from_dlpack(array)))


class Refusing(Placed):
    """One whose library takes no array of others."""

    def __array_namespace__(self, **_):
        def from_dlpack(array):
            raise BufferError("only our own")

        return types.SimpleNamespace(from_dlpack=from_dlpack)


@pytest.mark.parametrize("kind", [Exported, Placed, Standard, Refusing])
def test_any_array_with_dlpack_is_taken_and_comes_back_if_its_library_takes_it(kind, rng):
    arrays = inputs(rng)
    expected = every_op(*arrays)
    found = every_op(*map(kind, arrays))
    assert found.keys() == expected.keys()
    v = kind(arrays[0])
    found["attend"] = ss.attend(v, v, v, window=3, topk=None), ss.attend(v, v, v, kind(arrays[1]), window=3, topk=2)
    given = {"window": 3, "topk": 2, "frames": [[0], [2], [1]]}
    found["frames"] = *ss.search(v, v, **given), *ss.attend(v, v, v, return_attention=True, **given)
    v = arrays[0]
    expected["attend"] = ss.attend(v, v, v, window=3, topk=None), ss.attend(v, v, v, arrays[1], window=3, topk=2)
    expected["frames"] = *ss.search(v, v, **given), *ss.attend(v, v, v, return_attention=True, **given)
    for name, results in found.items():
        for result, wanted in zip(results, expected[name], strict=True):
            assert type(result) is (Standard if kind is Standard else np.ndarray), name
            np.testing.assert_array_equal(result._array if kind is Standard else result, wanted, err_msg=name)


def test_a_library_without_a_namespace_may_have_from_dlpack_itself(monkeypatch, video):
    library = types.ModuleType("carrays")
    library.from_dlpack = lambda array: ("carrays", np.from_dlpack(array))
    monkeypatch.setitem(sys.modules, "carrays", library)
    kind = type("Array", (Placed,), {"__module__": "carrays.core"})
    where, scores = ss.search(kind(video), kind(video), window=3)[0]
    assert where == "carrays"
    np.testing.assert_array_equal(scores, ss.search(video, video, window=3)[0])


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("mps", r"q is on Apple's GPU \(MPS\), expected the CPU or a CUDA device: pass q.cpu\(\)"),
        ("xpu", r"q is on an Intel GPU \(oneAPI\), expected the CPU or a CUDA device: pass q.cpu\(\)"),
        ("hpu", r"q is on no device that DLPack knows \(hpu\?\), expected the CPU or a CUDA device: pass q.cpu\(\)"),
        ("meta", "q is on torch's device meta, which holds no numbers"),
    ],
)
def test_devices_of_torch_without_kernels_are_named(torch, device, said):
    """Such tensors need their hardware: these only say where they would be."""

    class There(torch.Tensor):
        @property
        def device(self):
            return torch.device(device)

        def __dlpack_device__(self):
            raise ValueError(f"{device}?")

    tensor = torch.zeros(SIZE).as_subclass(There)
    with pytest.raises(ShiftsearchError, match=f"match: {said}"):
        ss.match(tensor, np.zeros(3))


def test_arrays_that_jax_traces_are_an_error_that_says_so(monkeypatch, video):
    jax = types.ModuleType("jax")
    jax.core = types.SimpleNamespace(Tracer=type("Tracer", (Exported,), {"__module__": "jax.core"}))
    monkeypatch.setitem(sys.modules, "jax", jax)
    said = "search: k is traced by JAX and has no numbers yet, expected an array: call it outside of jax.jit"
    with pytest.raises(ShiftsearchError, match=said):
        ss.search(video, jax.core.Tracer(video))


def test_arrays_of_jax_are_taken(rng):
    jax = pytest.importorskip("jax")
    arrays = inputs(rng)
    expected = every_op(*arrays)
    for name, results in every_op(*map(jax.numpy.asarray, arrays)).items():
        for result, wanted in zip(results, expected[name], strict=True):
            assert isinstance(result, jax.Array), name
            np.testing.assert_array_equal(result, wanted, err_msg=name)
    for traced in (jax.jit, jax.vmap, jax.grad):
        with pytest.raises(ShiftsearchError, match="search: q is traced by JAX"):
            traced(lambda q: ss.search(q, q, window=3)[0].sum())(jax.numpy.asarray(arrays[0]))


def test_inputs_are_never_changed_and_outputs_are_our_own(rng):
    arrays = inputs(rng)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    for name, results in every_op(*arrays).items():
        for result in results:
            assert result.flags.writeable, name
            assert not any(np.shares_memory(result, array) for array in arrays), name
    for array, was in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, was)


def test_byte_swapped_arrays_are_an_error(video):
    with pytest.raises(ShiftsearchError, match="search: q is >f4, expected one of float16, bfloat16, float32, float64"):
        ss.search(video.astype(">f4"), video.astype(">f4"))
    with pytest.raises(ShiftsearchError, match="aggregate: offsets is >i4"):
        ss.aggregate(video, np.ones((2, 1, 3, 6, 7, 1), np.float32), np.zeros((2, 1, 3, 6, 7, 1, 3), ">i4"))


def test_masked_arrays_are_an_error(video):
    with pytest.raises(ShiftsearchError, match="search: q is a masked array"):
        ss.search(np.ma.masked_array(video), video)


def test_a_subclass_of_ndarray_gives_a_plain_array(video):
    class Video(np.ndarray):
        pass

    scores, _ = ss.search(video.view(Video), video.view(Video), window=3)
    assert type(scores) is np.ndarray
