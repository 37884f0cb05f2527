"""Models of other libraries and ours give the same results with the same random weights, which `load` converts."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from oracles import library  # noqa: E402 - torch may be missing

from shiftsearch import models  # noqa: E402

pytestmark = pytest.mark.full  # CI has these libraries when it runs the rest
SMALL = {"size": 32, "patch": 8, "dim": 24, "depth": 2, "heads": 3}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def randomly(network: torch.nn.Module) -> torch.nn.Module:
    """Give every weight a random value, so that none hides that it is used wrongly."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def hugging_face(attention="divided_space_time", frames=4):
    kinds = library("transformers.models.timesformer.modeling_timesformer")
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "intermediate_size": 96}
    depths = {"num_hidden_layers": 2, "num_attention_heads": 3, "num_frames": frames, "drop_path_rate": 0}
    return kinds, library("transformers").TimesformerConfig(**sizes, **depths, attention_type=attention, num_labels=5)


@pytest.mark.parametrize(("attention", "theirs"), [("divided", "divided_space_time"), ("joint", "joint_space_time")])
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_timesformer_equals_hugging_face(attention, theirs, size):
    kinds, config = hugging_face(theirs)
    reference = randomly(kinds.TimesformerForVideoClassification(config))
    ours = models.TimeSformer(4, classes=5, attention=attention, **SMALL).eval()
    models.load(ours, reference.state_dict())
    video = torch.randn(2, 4, 3, *size)
    torch.testing.assert_close(ours(video), reference(video).logits, rtol=1e-5, atol=1e-5)


def test_features_equal_hugging_face_without_a_head():
    kinds, config = hugging_face()
    reference = randomly(kinds.TimesformerModel(config))
    ours = models.TimeSformer(4, classes=5, **SMALL).eval()
    models.load(ours, reference.state_dict(), skip=["head"])
    video = torch.randn(2, 4, 3, 32, 32)
    torch.testing.assert_close(ours.features(video), reference(video).last_hidden_state[:, 0], rtol=1e-5, atol=1e-5)


def test_star_vqa_equals_hugging_face_timesformer_and_its_head():
    kinds, config = hugging_face(frames=5)
    reference = randomly(kinds.TimesformerModel(config))
    body = models.load(models.TimeSformer(5, **SMALL), reference.state_dict(), skip=["head"]).state_dict()
    ours = models.StarVQA(5, **SMALL).eval()
    head = {name: value for name, value in ours.state_dict().items() if name.startswith("head")}
    models.load(ours, {**{k: v for k, v in body.items() if not k.startswith("head")}, **head})
    video = torch.randn(1, 5, 3, 32, 32)
    cls = reference(video).last_hidden_state[:, 0]
    hidden = torch.nn.functional.gelu(cls @ head["head.fc1.weight"].T + head["head.fc1.bias"])
    vector = (hidden @ head["head.fc2.weight"].T + head["head.fc2.bias"]).softmax(-1)
    torch.testing.assert_close(ours(video), vector, rtol=1e-5, atol=1e-5)


def test_joint_attention_takes_the_nearest_temporal_positions():
    kinds, config = hugging_face("joint_space_time")
    reference = randomly(kinds.TimesformerForVideoClassification(config))
    ours = models.load(models.TimeSformer(4, classes=5, attention="joint", **SMALL), reference.state_dict()).eval()
    video = torch.randn(1, 7, 3, 32, 32)
    torch.testing.assert_close(ours(video), reference(video).logits, rtol=1e-5, atol=1e-5)


def test_space_attention_equals_the_mean_over_single_frames():
    kinds, config = hugging_face("space_only")
    reference = randomly(kinds.TimesformerModel(config))
    reference.layernorm = torch.nn.Identity()  # ours comes after the mean over frames, which theirs does not take
    ours = models.TimeSformer(4, classes=5, attention="space", **SMALL).eval()
    state = {**reference.state_dict(), "layernorm.weight": torch.rand(24), "layernorm.bias": torch.rand(24)}
    models.load(ours, state, skip=["head"])
    video = torch.randn(2, 3, 3, 32, 32)
    tokens = reference(video).last_hidden_state[:, 0].unflatten(0, (2, 3)).mean(1)
    torch.testing.assert_close(ours.features(video), ours.norm(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [32, 48])
def test_the_trunk_equals_timm(size):
    build = library("timm").models.vision_transformer.VisionTransformer
    sizes = {"img_size": size, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    reference = randomly(build(**sizes, dynamic_img_size=True))
    ours = models.load(models.ViT(**{**SMALL, "size": size}).eval(), reference.state_dict())
    video = torch.randn(2, 3, 3, size, size)
    torch.testing.assert_close(ours(video).flatten(0, 1), reference(video.flatten(0, 1)), rtol=1e-5, atol=1e-5)


SWIN = {"dim": 12, "depths": (2, 2), "heads": (2, 3)}


@pytest.mark.parametrize(
    ("window", "size"),
    [
        ((2, 3, 3), (6, 24, 32)),
        ((2, 3, 4), (5, 21, 30)),  # every axis is padded
        ((4, 3, 3), (3, 30, 24)),  # fewer frames than a window
        ((2, 5, 6), (6, 16, 20)),  # smaller frames than a window
    ],
)
def test_video_swin_equals_torchvision(window, size):
    build = library("torchvision.models.video.swin_transformer").SwinTransformer3d
    sizes = {"patch_size": [2, 4, 4], "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "num_classes": 5}
    reference = randomly(build(**sizes, window_size=list(window)))
    ours = models.load(models.VideoSwin(classes=5, window=window, **SWIN), reference.state_dict()).eval()
    T, H, W = size
    video = torch.randn(2, T, 3, H, W)
    torch.testing.assert_close(ours(video), reference(video.transpose(1, 2)), rtol=1e-5, atol=1e-5)


def test_tiny_video_swin_equals_torchvision():
    reference = library("torchvision.models.video.swin_transformer").swin3d_t().eval()
    with torch.device("meta"):
        ours = models.VideoSwin("tiny").eval()
    models.load(ours.to_empty(device="cpu"), reference.state_dict())
    video = torch.randn(1, 2, 3, 64, 32)
    torch.testing.assert_close(ours(video), reference(video.transpose(1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (36, 28)])
def test_windows_of_one_frame_equal_the_image_swin_of_torchvision(size):
    build = library("torchvision.models.swin_transformer").SwinTransformer
    sizes = {"patch_size": [4, 4], "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "num_classes": 5}
    reference = randomly(build(**sizes, window_size=[3, 3]))
    names = {"features.0.0.": "patch_embed.proj.", "features.0.2.": "patch_embed.norm."}
    state = {}
    for name, value in reference.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        if name.startswith("features."):
            _, n, rest = name.split(".", 2)
            name = f"features.{int(n) - 1}.{rest}"
        state[name] = value[:, :, None] if name == "patch_embed.proj.weight" else value
    ours = models.VideoSwin(classes=5, window=(1, 3, 3), patch=(1, 4, 4), **SWIN).eval()
    models.load(ours, state)
    video = torch.randn(2, 1, 3, *size)
    torch.testing.assert_close(ours(video), reference(video[:, 0]), rtol=1e-5, atol=1e-5)


def test_the_head_of_avt_equals_gpt_2():
    transformers = library("transformers")
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 4, "n_positions": 12, "vocab_size": 1}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    reference = randomly(library("transformers.models.gpt2.modeling_gpt2").GPT2Model(config))
    ours = models.AVT(5, features=16, head={"dim": 16, "depth": 2, "heads": 4, "positions": 12}).eval()
    saved = {f"future_predictor.gpt_model.{name}": value for name, value in reference.state_dict().items()}
    saved |= {f"future_predictor.{name}.weight": torch.eye(16) for name in ("encoder", "decoder")}
    saved |= {"classifiers.action.weight": torch.randn(5, 16), "classifiers.action.bias": torch.randn(5)}
    models.load(ours, saved)
    x = torch.randn(2, 7, 16)
    expected = reference(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(ours.head(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x).future, ours.classifier(expected[:, -1]), rtol=1e-5, atol=1e-5)
