"""Properties that all systems share: published parameter counts, and support for the features of torch."""

from __future__ import annotations

import copy

import pytest
from quick import shown_by

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402
from shiftsearch.models import _attention  # noqa: E402

VIT = {"size": 16, "patch": 8, "dim": 12, "depth": 2, "heads": 2}
SWIN = {"dim": 6, "depths": (2, 1), "heads": (1, 2), "window": (2, 2, 3), "patch": (1, 2, 2)}
HEAD = {"dim": 8, "depth": 2, "heads": 2, "positions": 6}
SIFA = {"dim": 4, "depths": (2, 2), "heads": (1, 2), "window": 3}
SYSTEMS = {  # a small network of each, and the shapes of its inputs without the batch
    "vit": (lambda **more: models.ViT(**VIT, **more), [(3, 3, 16, 16)]),
    "divided": (lambda **more: models.TimeSformer(3, classes=5, **VIT, **more), [(3, 3, 16, 16)]),
    "joint": (lambda **more: models.TimeSformer(3, classes=5, attention="joint", **VIT, **more), [(3, 3, 16, 16)]),
    "space": (lambda **more: models.TimeSformer(3, classes=5, attention="space", **VIT, **more), [(3, 3, 16, 16)]),
    "xvit": (lambda **more: models.XViT(3, classes=5, n_div=4, **VIT, **more), [(3, 3, 16, 16)]),
    "star_vqa": (lambda **more: models.StarVQA(3, **VIT, **more), [(3, 3, 16, 16)]),
    "avt": (lambda **more: models.AVT(5, head=HEAD, **VIT, **more), [(3, 3, 16, 16)]),
    "sifa_net": (lambda **more: models.SIFANet(classes=5, width=4, **more), [(16, 3, 8, 12)]),
    "sifa_swin": (lambda **more: models.SIFATransformer(classes=5, **SIFA, **more), [(8, 3, 24, 16)]),
    "audio_visual": (lambda: models.AudioVisualAttention(4, 5, 3, dim=6, heads=2), [(3, 4, 2, 3), (6, 5)]),
    "swin": (lambda **more: models.VideoSwin(classes=5, **SWIN, **more), [(2, 3, 4, 13)]),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def made(name, **more):
    """Return a small network with random weights, none of them 0, and a batch of two for it."""
    build, shapes = SYSTEMS[name]
    network = build(**more)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval(), [torch.randn(2, *shape) for shape in shapes]


def tensors(result):
    """Return the tensors that a network returned, as a list."""
    return [result] if isinstance(result, torch.Tensor) else list(result)


def close(found, expected, **tolerance):
    torch.testing.assert_close(tensors(found), tensors(expected), **tolerance)


def loss(result):
    return sum((one * torch.arange(one.numel()).view_as(one)).sum() for one in tensors(result))


# --- as published -----------------------------------------------------------------------------------
PUBLISHED = [  # millions of parameters; 10 ** 9 multiplications of a clip with this many frames of 224 x 224
    (models.TimeSformer, {}, "121.57", 8, "195.8"),
    (models.TimeSformer, {"classes": 174}, "121.39", None, None),
    (models.TimeSformer, {"frames": 16, "size": 448}, "122.02", None, None),
    (models.TimeSformer, {"frames": 96}, "121.63", None, None),
    (models.TimeSformer, {"attention": "joint"}, "86.11", 8, "179.6"),
    (models.TimeSformer, {"attention": "space"}, "86.11", 8, "140.5"),
    (models.TimeSformer, {"attention": "space", "classes": 174}, "85.93", None, None),
    (models.ViT, {}, "85.80", None, None),
    (models.XViT, {}, "93.79", 8, "140.6"),
    (models.SIFANet, {}, "43.04", 16, "23.9"),
    (models.SIFANet, {"depth": 101}, "63.55", None, None),
    (models.AVT, {}, "396", None, None),
    (models.AVTHead, {}, "307.40", None, None),
    (models.AVTHead, {"features": 1024}, "308.4", None, None),
    (models.StarVQA, {}, "121.89", 52, "1281"),
    (models.VideoSwin, {}, "28.16", 32, "87.8"),
    (models.VideoSwin, {"variant": "small"}, "49.82", None, None),
    (models.VideoSwin, {"variant": "base"}, "88.05", None, None),
    (models.VideoSwin, {"variant": "base", "window": (16, 7, 7), "classes": 174}, "88.83", 32, "320.4"),
    (models.VideoSwin, {"variant": "large"}, "196.95", None, None),
]


@pytest.mark.parametrize(("kind", "options", "millions", "frames", "billions"), PUBLISHED)
def test_parameters_and_operations_are_as_published(kind, options, millions, frames, billions):
    with torch.device("meta"), torch.no_grad():
        network = kind(**options).eval()
        assert rounded(sum(p.numel() for p in network.parameters()) / 1e6, millions) == millions
        if billions:
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, frames, 3, 224, 224))
            assert rounded(of_layers(counter) / 2e9, billions) == billions


@pytest.mark.parametrize(("variant", "millions"), [("small", "61.28"), ("base", "108.57"), ("large", "243.44")])
def test_sifa_transformer_has_the_published_parameters_if_unused_ones_are_counted(variant, millions):
    """Each released block has the norm, the temporal convolution and constants 1 / C for 4 frames, used or not; no offsets."""
    with torch.device("meta"):
        network = models.SIFATransformer(variant)
    count = sum(p.numel() for name, p in network.named_parameters() if "conv_offset" not in name)
    for block in (block for stage in network.layers for block in stage.blocks):
        C = block.norm1.normalized_shape[0]
        count += 4 * 9 * C + (2 * C if block.attn.shifted else 3 * C * C)
    assert rounded(count / 1e6, millions) == millions


def test_sifa_transformer_has_the_published_operations_and_those_of_its_offsets():
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = models.SIFATransformer().eval()
        network(torch.empty(1, 16, 3, 224, 224))
    of_offsets = 0
    for name, weight in network.named_parameters():
        if "conv_offset" in name:
            side = 56 >> int(name.split(".")[1])
            of_offsets += weight.numel() * 4 * side * side
    assert rounded((of_layers(counter) / 2 - of_offsets) / 1e9, "38.95") == "38.95"


def of_layers(counter):
    """What convolutions and matrix products have: published counts of SIFA are without what it does between frames."""
    return sum(n for op, n in counter.get_flop_counts()["Global"].items() if not str(op).startswith("shiftsearch."))


def rounded(number, like):
    """Return a number as text, with as many digits as `like`."""
    return f"{number:.{len(like.partition('.')[2])}f}"


# --- torch ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_weight_has_a_gradient_and_clips_of_a_batch_are_independent(name):
    network, inputs = made(name)
    result = network(*inputs)
    loss(result).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    alone = network(*(x[1:] for x in inputs))
    close(alone, [one[1:] for one in tensors(result)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_copies_and_loaded_weights_give_the_same_result(name, tmp_path):
    network, inputs = made(name)
    expected = network(*inputs)
    close(copy.deepcopy(network)(*inputs), expected, rtol=0, atol=0)
    torch.save({"model": network.state_dict()}, tmp_path / "saved.pt")
    fresh = SYSTEMS[name][0]().eval()
    assert models.load(fresh, tmp_path / "saved.pt") is fresh
    close(fresh(*inputs), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "audio_visual"])
def test_gradient_checkpointing_gives_the_same_gradients(name):
    network, inputs = made(name)
    again = SYSTEMS[name][0](recompute=True).eval()
    again.load_state_dict(network.state_dict())
    for one in (network, again):
        loss(one(*inputs)).backward()
    close([p.grad for p in again.parameters()], [p.grad for p in network.parameters()])


@pytest.mark.parametrize("name", SYSTEMS)
def test_autocast_stays_close(name):
    network, inputs = made(name)
    expected = tensors(network(*inputs))
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors(network(*inputs))
    for one, other in zip(found, expected, strict=True):
        assert (one.float() - other).abs().max() < 0.1 * other.abs().max()


GRAPHS = [
    name for name in SYSTEMS if name not in ("vit", "space", "joint")
]  # the others have no operation of their own, and compiling is slow


@pytest.mark.parametrize("name", shown_by(GRAPHS, 0))
def test_it_compiles_to_one_graph(name):
    network, inputs = made(name)
    torch.compiler.reset()
    close(torch.compile(network, fullgraph=True, backend="aot_eager")(*inputs), network(*inputs))


@pytest.mark.parametrize("name", shown_by(GRAPHS, 0))
def test_exported_programs_take_any_batch_size(name):
    network, inputs = made(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, tuple(inputs), dynamic_shapes=tuple({0: batch} for _ in inputs))
    more = [torch.cat((x, -x, 2 * x)) for x in inputs]
    close(program.module()(*more), network(*more))


def test_drop_path_drops_whole_clips_and_keeps_the_mean():
    drop = _attention.DropPath(0.25)
    kept = drop(torch.ones(4000, 2, 3))
    assert (kept == kept[:, :1, :1]).all()
    assert set(kept.unique().tolist()) == {0, torch.tensor(1 / 0.75).item()}
    assert abs(kept.mean() - 1) < 0.05
    assert (drop.eval()(kept) == kept).all()


# --- bad input --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "divided",
            (2, 3, 4, 16, 16),
            r"TimeSformer: video is torch.float32 of shape .*, expected .* \(B, T, 3, H, W\)",
        ),
        ("divided", (3, 3, 16, 16), r"TimeSformer: video is .* expected floats of shape \(B, T, 3, H, W\)"),
        ("joint", (1, 0, 3, 16, 16), "TimeSformer: video is .* none of them 0"),
        ("xvit", (1, 3, 1, 16, 16), r"XViT: video is .* expected floats of shape \(B, T, 3, H, W\)"),
        ("avt", (1, 9, 3, 16, 16), "AVTHead: the number of frames, past and predicted, is 9, expected at most 6"),
        ("sifa_net", (1, 7, 3, 8, 12), "SIFANet: video is 7 frames long, expected at least 8"),
        ("sifa_swin", (1, 6, 3, 24, 16), "SIFATransformer: the number of frames of video is 6, expected a multiple of"),
        (
            "sifa_swin",
            (1, 4, 3, 18, 16),
            "SIFATransformer: video is of 18 x 16 pixels, expected multiples of the patch",
        ),
        ("space", (1, 3, 3, 16, 20), "TimeSformer: video is of 16 x 20 pixels, expected multiples of the patch, 8 x 8"),
    ],
)
def test_a_clip_that_does_not_fit_raises_an_error(name, shape, message):
    with pytest.raises(ShiftsearchError, match=message):
        SYSTEMS[name][0]()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("audio", "sounds", "message"),
    [
        ((2, 7, 5), None, "audio is 7 frames long, expected a multiple of the 3 frames of video"),
        ((1, 6, 5), None, r"audio is torch.float32 of shape \(1, 6, 5\), expected floats of shape \(2, n\*T, 5\)"),
        (
            (2, 6, 5),
            torch.ones(2, 6),
            r"sounds is torch.float32 of shape \(2, 6\), expected torch.bool of shape \(2, 6\)",
        ),
    ],
)
def test_sound_that_does_not_fit_raises_an_error(audio, sounds, message):
    network, (video, _) = made("audio_visual")
    with pytest.raises(ShiftsearchError, match=f"AudioVisualAttention: {message}"):
        network(video, torch.zeros(audio), sounds)


def test_labels_and_scores_that_do_not_fit_raise_an_error():
    avt, (video,) = made("avt")
    heard, inputs = made("audio_visual")
    codebook, two = models.Codebook(), torch.zeros(2, dtype=torch.int64)
    for call, message in {
        lambda: avt.losses(
            avt(video), torch.zeros(2, 4).long(), two
        ): r"AVT: past is of shape \(2, 4\), expected shape \(2, 3\)",
        lambda: avt.losses(
            avt(video), torch.zeros(2, 3).long(), two[:1]
        ): r"AVT: future is of shape \(1,\), expected shape",
        lambda: avt.losses(avt(video), torch.zeros(2, 3), two): "AVT: past is of torch.float32, expected torch.int64",
        lambda: heard.loss(
            heard(*inputs), two[:1]
        ): r"AudioVisualAttention: classes is of shape \(1,\), expected shape \(2,\)",
        lambda: heard(*inputs).enlarged(0, 8): "Explanation: height is 0, expected a whole number of at least 1",
        lambda: codebook.decode(
            torch.rand(2, 5)
        ): "Codebook: vectors is of 5 numbers, expected one for each of 6 anchors",
        lambda: codebook.encode([50.0]): "Codebook: scores is a list, expected a torch tensor",
        lambda: codebook.loss(
            torch.rand(2, 6), torch.rand(3)
        ): r"Codebook: scores is of shape \(3,\), expected shape \(2,\)",
    }.items():
        with pytest.raises(ShiftsearchError, match=message):
            call()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (models.TimeSformer, {"attention": "time"}, "TimeSformer: attention is 'time', expected one of 'divided', 'jo"),
        (
            models.TimeSformer,
            {"dim": 10, "heads": 4},
            "TimeSformer: dim is 10, expected a multiple of heads, which is 4",
        ),
        (
            models.TimeSformer,
            {"size": (224, 100)},
            "TimeSformer: size is 100, expected a multiple of patch, which is 16",
        ),
        (models.TimeSformer, {"size": "224"}, r"TimeSformer: size is '224', expected a number or \(height, width\)"),
        (models.TimeSformer, {"frames": 0}, "TimeSformer: frames is 0, expected a whole number of at least 1"),
        (models.TimeSformer, {"drop_path": 1.5}, "TimeSformer: drop_path is 1.5, expected a number from 0"),
        (models.XViT, {"layout": "heads"}, "XViT: layout is 'heads', expected one of 'flat', 'per_head'"),
        (models.XViT, {"n_div": 1}, "XViT: n_div is 1, expected None or a whole number from 2 to the 768 channels"),
        (models.XViT, {"n_div": 65, "layout": "per_head"}, "XViT: n_div is 65, expected .* to the 64 channels"),
        (
            models.VideoSwin,
            {"variant": "huge"},
            "VideoSwin: variant is 'huge', expected one of 'tiny', 'small', 'base', 'l",
        ),
        (models.VideoSwin, {"window": (7, 7)}, r"VideoSwin: window is \(7, 7\), expected 3 whole numbers"),
        (models.VideoSwin, {"heads": (3, 6)}, r"VideoSwin: heads is \(3, 6\), expected 4 whole numbers"),
        (
            models.VideoSwin,
            {"dim": 10},
            "VideoSwin: dim of a stage is 10, expected a multiple of its heads, which is 3",
        ),
        (models.StarVQA, {"anchors": (1,)}, r"Codebook: anchors is \(1,\), expected at least two rising numbers"),
        (
            models.StarVQA,
            {"anchors": (0, float("nan"))},
            r"Codebook: anchors is \(0, nan\), expected at least two rising",
        ),
        (models.StarVQA, {"anchors": 6}, "Codebook: anchors is 6, expected at least two rising numbers"),
        (models.StarVQA, {"scores": (5, 1)}, r"Codebook: scores is \(5, 1\), expected \(lowest, highest\)"),
        (models.StarVQA, {"scores": (1, 2, 3)}, r"Codebook: scores is \(1, 2, 3\), expected \(lowest, highest\)"),
        (
            models.AVT,
            {"features": 8, "dim": 8},
            "AVT: features is 8, expected None beside sizes of a vision transformer",
        ),
        (models.AVTHead, {"dim": 9}, "AVTHead: dim is 9, expected a multiple of heads, which is 4"),
        (models.AudioVisualAttention, {"dim": 9, "heads": 2}, "AudioVisualAttention: dim is 9, expected a multiple of"),
        (models.SIFANet, {"depth": 18}, "SIFANet: depth is 18, expected one of 50, 101"),
        (models.SIFATransformer, {"heads": 3}, "SIFATransformer: heads is 3, expected 4 whole numbers"),
        (models.ViT, {"recompute": 1}, "ViT: recompute is 1, expected True or False"),
    ],
)
def test_wrong_options_raise_an_error(kind, options, message):
    with torch.device("meta"), pytest.raises(ShiftsearchError, match=message):
        kind(**options)
