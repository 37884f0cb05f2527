"""The denoiser and its flow: what they find, that everything learns, and that any frames are taken."""

from __future__ import annotations

import copy
import doctest
import io

import pytest

import shiftsearch as ss
from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402 - torch may be missing

from shiftsearch.models import ShiftedUNet, unet  # noqa: E402

SMALL = {"depths": (1, 2), "heads": (1, 2), "head_dim": 4, "key_dim": 4, "window": 3, "keep": 5, "topk": 3}


@pytest.fixture(autouse=True)
def _seeded():
    """On one thread: for frames this small, several wait for each other more than they compute."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def video():
    return torch.rand(1, 3, 3, 9, 14)


def trained(**options):
    """A small network that changes its input, as if it had learnt something."""
    network = ShiftedUNet(**{**SMALL, **options})
    torch.nn.init.normal_(network.tail.weight, std=0.1)
    return network


def drifting(frames, height, width, dy, dx, noise=0.0):
    """A clip (1, T, 3, H, W) whose content moves by (dy, dx) pixels a frame."""
    m = frames * max(abs(dy), abs(dx))
    size = height + 2 * m, width + 2 * m
    coarse = (torch.rand(1, 3, size[0] // n + 1, size[1] // n + 1) for n in (2, 6, 18))
    texture = sum(F.interpolate(one, size, mode="bicubic") for one in coarse)[0] / 3
    tops, lefts = ([m - step * t for t in range(frames)] for step in (dy, dx))
    clip = [texture[:, top : top + height, left : left + width] for top, left in zip(tops, lefts, strict=True)]
    return torch.stack(clip)[None] + noise * torch.randn(1, frames, 3, height, width)


def shift_flow(video, dy, dx):
    B, T, _, H, W = video.shape
    forward = torch.tensor([dx, dy], dtype=torch.float32)[:, None, None].expand(B, T, 2, H, W)
    return forward, -forward


# --- flow -------------------------------------------------------------------------------------------
def test_without_flow_it_is_measured():
    clip = drifting(3, 48, 56, 3, -5, 0.05)
    clips = torch.cat((clip, clip.flip(1)))
    pairs = [ss.flow.pair(one.mean(1)[..., None], method="match") for one in clips]
    flow = [torch.stack(ways) for ways in zip(*pairs, strict=True)]
    network = trained()
    torch.testing.assert_close(network(clips), network(clips, flow=flow))
    assert (network(clips) - network(clips, flow=shift_flow(clips, 0, 0))).abs().max() > 0.01


def test_flow_is_the_same_under_autocast_and_has_no_gradient(video):
    expected = unet._measured_flow(video)
    with torch.autocast("cpu", torch.bfloat16):
        found = unet._measured_flow(video)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    trained()(video.requires_grad_()).sum().backward()
    assert video.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 3, 9, 14), (2, 2, 1, 1, 1), (1, 3, 3, 1, 40)])
def test_flow_of_any_frames(shape):
    for flow in unet._measured_flow(torch.rand(shape)):
        assert flow.shape == (*shape[:2], 2, *shape[-2:])
        assert flow.isfinite().all()


# --- what the network computes ----------------------------------------------------------------------
def test_before_training_it_changes_nothing(video):
    assert torch.equal(ShiftedUNet(**SMALL)(video), video)


@pytest.mark.parametrize("shape", [(1, 3, 3, 1, 1), (2, 3, 3, 8, 8), (1, 4, 3, 7, 13), (0, 3, 3, 8, 8), (3, 3, 5, 9)])
def test_any_frames_are_taken(shape):
    out = trained()(torch.rand(shape))
    assert out.shape == shape
    assert out.isfinite().all()


def test_without_a_batch_the_result_is_the_same(video):
    network, flow = trained(noise_level=True), shift_flow(video, 1, 1)
    found = network(video[0], 0.1, [one[0] for one in flow])
    torch.testing.assert_close(found, network(video, 0.1, flow)[0])


def test_clips_of_a_batch_do_not_meet(video):
    network, other = trained(), torch.rand_like(video)
    together = network(torch.cat((video, other)))
    torch.testing.assert_close(together, torch.cat((network(video), network(other))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [1, 3])
def test_places_lie_where_the_flow_leads(window):
    """Within the window around it; with a window of 1 there and nowhere else."""
    video = torch.rand(1, 3, 3, 12, 16)
    network, seen = trained(depths=(1,), heads=(1,), window=window, keep=100, compare="keys"), []
    network.levels[0].search.register_forward_hook(lambda module, given, found: seen.append(found[1]))
    network(video, flow=shift_flow(video, 2, -3))
    offsets = seen[0][:, :, 1, 5, 6].flatten(0, -2)  # of one query of the middle frame
    assert len(offsets) == 3 * window**2
    frames = {(0, 0, 0), (1, 2, -3), (-1, -2, 3)}
    apart = (offsets[:, None] - torch.tensor(list(frames))).abs().amax(-1).amin(-1)
    assert apart.max() == window // 2


def test_a_shared_map_is_compared_in_other_frames_and_the_pixel_itself_is_one_more_place():
    video, seen = torch.rand(1, 3, 3, 12, 16), []
    network = trained(depths=(1,), heads=(1,), window=3, keep=100)
    network.levels[0].down[0].attention.register_forward_hook(lambda module, given, found: seen.append(given[1]))
    flow = shift_flow(video, 2, -3)
    network(video, flow=flow)
    (offsets,) = seen
    assert offsets.shape[-2] == 1 + 2 * 9
    assert (offsets[..., 0, :] == 0).all()
    assert (offsets[..., 1:, 0] != 0).all()
    apart = offsets[0, 0, 1, 5, 6, 1:] - offsets[0, 0, 1, 5, 6, 1:, :1] * torch.tensor([1, 2, -3])
    assert apart.abs().max() == 1
    moving = drifting(3, 12, 16, 2, -3)
    network(moving, flow=shift_flow(moving, 2, -2))
    assert (seen[1][0, 0, 0, 4:-4, 6:-6, 1] == torch.tensor([1, 2, -3])).float().mean() > 0.9  # found before it learns


def test_flow_of_lower_levels_is_that_of_their_pixels():
    video, seen = torch.rand(1, 3, 3, 16, 24), []
    network = trained(window=1)
    network.levels[1].search.register_forward_hook(lambda module, given, found: seen.append(given[2]))
    network(video, flow=shift_flow(video, 2, -6))
    forward, backward = seen[0]
    assert forward.shape == (1, 3, 2, 8, 12)
    assert torch.equal(forward, shift_flow(forward, 1, -3)[0])
    assert torch.equal(backward, -forward)


def test_without_motion_flow_is_not_looked_at(video):
    network = trained(motion=False)
    assert torch.equal(network(video), network(video, flow=shift_flow(video, 5, 5)))
    network.motion = True
    assert torch.equal(network(video, flow=shift_flow(video, 0, 0)), trained_like(network, motion=False)(video))


def trained_like(network, **options):
    other = ShiftedUNet(**{**network.options, **options})
    other.load_state_dict(network.state_dict())
    return other


def test_with_and_without_search_the_weights_are_the_same():
    shapes = [
        {name: weight.shape for name, weight in ShiftedUNet(**{**SMALL, **options}).state_dict().items()}
        for options in ({}, {"window": 1}, {"motion": False})
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_the_noise_level_is_seen(video):
    network = trained(noise_level=True)
    weak, strong = network(video, 0.1), network(video, 0.2)
    assert not torch.equal(weak, strong)
    both = network(video.expand(2, -1, -1, -1, -1), torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(both, torch.cat((weak, strong)), rtol=1e-4, atol=1e-5)


# --- learning ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("compare", ["keys", "shared"])
def test_every_weight_learns_and_the_flow_too(video, compare):
    network = trained(patch=2, compare=compare)
    flow = [(one + 0.3).requires_grad_() for one in shift_flow(video, 1, 1)]
    network(video, flow=flow).square().sum().backward()
    for name, weight in [*network.named_parameters(), *zip(("forward", "backward"), flow, strict=True)]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0 or name.endswith("k.bias"), name  # distances do not see a bias of both


@pytest.mark.full
def test_it_learns_to_denoise():
    clean = drifting(3, 16, 16, 1, 1)
    noisy = clean + 0.2 * torch.randn_like(clean)
    network = ShiftedUNet(**{**SMALL, "depths": (1, 1)})
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(network(noisy), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --- as a module of torch ---------------------------------------------------------------------------
def test_the_state_dict_has_these_names():
    network = ShiftedUNet(**{**SMALL, "depths": (1, 1)})
    layers = "norm", "mix.0", "mix.1", "mix.2", "mix.4", *(f"attention.{part}" for part in ("q", "k", "v", "out"))
    block = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")} | {"attention.log_scale"}
    expected = {f"levels.{at}.{name}" for at in ("0.down.0", "0.up.0", "1.down.0") for name in block}
    convolutions = ("head", "features.0", "features.2", "tail", "shrink.0", "grow.0")
    expected |= {f"{layer}.{kind}" for layer in convolutions for kind in ("weight", "bias")}
    assert set(network.state_dict()) == expected


def test_saved_copied_and_moved_it_is_the_same(video):
    network = trained()
    expected = network(video)
    assert torch.equal(copy.deepcopy(network)(video), expected)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = ShiftedUNet(**SMALL)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(video), expected)
    double = network.to(torch.float64)(video.double())
    torch.testing.assert_close(double.float(), expected, rtol=1e-3, atol=1e-4)


def test_halves_stay_near(video):
    """With places that do not depend on the last digit."""
    network = trained(window=1)
    expected = network(video)
    copy.deepcopy(network).half()(video.half()).sum().backward()
    for found in (copy.deepcopy(network).half()(video.half()), copy.deepcopy(network).bfloat16()(video.bfloat16())):
        assert (found.float() - expected).abs().max() < 16 * torch.finfo(found.dtype).eps * expected.abs().max()


def test_under_autocast_it_learns(video):
    network = trained()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(video)
    out.float().square().sum().backward()
    assert all(weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in network.parameters())


@pytest.mark.full
def test_compiled_it_is_the_same():
    torch._dynamo.reset()
    network, video = trained(depths=(1, 1)).eval(), torch.rand(1, 3, 3, 8, 12)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="eager")(video), network(video))


@pytest.mark.full
def test_exported_it_takes_other_sizes():
    network, free = trained(depths=(1,), heads=(1,), window=1).eval(), torch.export.Dim.AUTO
    shapes = [{0: free, 1: free, 3: free, 4: free}]
    program = torch.export.export(network, (torch.rand(2, 4, 3, 11, 15),), dynamic_shapes=shapes)
    video = torch.rand(3, 5, 3, 18, 13)
    torch.testing.assert_close(program.module()(video), network(video))


def test_sizes_of_padded_frames_may_be_symbols():
    def coarse(flow):
        whole = F.pad(flow, unet._margin(*flow.shape[-2:], 2))
        return ss.upsample_flow(whole, (whole.shape[-2] // 2, whole.shape[-1] // 2))

    torch._dynamo.reset()
    compiled = torch.compile(coarse, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((9, 13), (11, 15)):
        flow = torch.rand(1, 2, *size)
        torch.testing.assert_close(compiled(flow), coarse(flow))


def test_without_memory_it_gives_a_shape():
    assert ShiftedUNet(**SMALL).to("meta")(torch.rand(2, 3, 3, 9, 14, device="meta")).shape == (2, 3, 3, 9, 14)


def test_its_repr_says_how_it_was_made():
    text = repr(ShiftedUNet(**SMALL))
    for option in ("depths=(1, 2)", "heads=(1, 2)", "window=3", "keep=5", "topk=3", "motion=True", "noise_level=False"):
        assert option in text


def test_the_defaults_are_those_of_the_paper():
    network = ShiftedUNet()
    assert [(len(level.down), len(level.up)) for level in network.levels] == [(1, 1), (2, 2), (4, 0)]
    assert [level.down[0].attention.dim for level in network.levels] == [16, 64, 192]
    search, attention = network.levels[0].search.options, network.levels[0].down[0].attention.find.options
    assert (search["window"], search["radius"], search["patch"], search["topk"]) == (9, 1, 1, 20)
    assert (attention["window"], attention["topk"]) == (1, 10)


# --- errors -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1,)}, r"depths is \(1,\) and heads is \(1, 2\)"),
        ({"depths": 2}, "depths is 2"),
        ({"heads": (1, 0)}, r"heads is \(1, 0\)"),
        ({"keep": 0}, "keep is 0"),
        ({"topk": 1.5}, "topk is 1.5"),
        ({"window": 0}, "window is 0"),
        ({"radius": -1}, "radius is -1"),
        ({"patch": "3"}, "patch is '3'"),
        ({"compare": "both"}, "compare is 'both'"),
        ({"radius": 0}, "radius is 0, expected another frame"),
        ({"motion": "flow"}, "motion is 'flow'"),
    ],
)
def test_hyper_parameters_are_checked(options, message):
    with pytest.raises(ShiftsearchError, match=message):
        ShiftedUNet(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"video": torch.rand(1, 3, 1, 8, 8)}, r"video is torch.float32 of shape \(1, 3, 1, 8, 8\), expected"),
        ({"video": torch.zeros(1, 3, 3, 8, 8, dtype=torch.uint8)}, "video is torch.uint8"),
        ({"video": torch.rand(1, 3, 3, 0, 8)}, "video has shape .*, expected at least one pixel"),
        ({"video": None}, "video is a NoneType"),
        ({"video": torch.rand(3, 8, 8)}, "video is"),
        ({"video": torch.rand(1, 2, 3, 8, 8)}, "video has 2 frames, expected at least"),
        ({"sigma": 0.1}, "sigma is 0.1, expected None"),
        ({"flow": torch.zeros(1, 3, 2, 8, 8)}, "flow is a Tensor, expected"),
        ({"flow": 2 * [torch.zeros(1, 3, 2, 8, 9)]}, "forward has shape"),
    ],
)
def test_what_is_given_is_checked(arguments, message):
    with pytest.raises(ShiftsearchError, match=f"ShiftedUNet: {message}"):
        ShiftedUNet(**SMALL)(**{"video": torch.rand(1, 3, 3, 8, 8), **arguments})


def test_the_noise_level_is_checked(video):
    network = ShiftedUNet(**SMALL, noise_level=True)
    for sigma, message in ((None, "sigma is None"), (torch.rand(2), "sigma has shape")):
        with pytest.raises(ShiftsearchError, match=message):
            network(video, sigma)


def test_examples_in_docstrings():
    result = doctest.testmod(unet, extraglobs={"torch": torch, "shiftsearch": ss})
    assert result.attempted > 0
    assert result.failed == 0
