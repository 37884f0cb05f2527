"""`load`: files with the published names and shapes are loaded; what does not fit is listed in one error."""

from __future__ import annotations

import pytest

from shiftsearch import ShiftsearchError

torch = pytest.importorskip("torch")

from shiftsearch import models  # noqa: E402

VIT = {"size": 16, "patch": 8, "dim": 12, "depth": 2, "heads": 2}
DIM, PATCHES = 12, 4


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def drawn(shapes):
    """Return random weights of these names and shapes."""
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def linear(name, into, out, bias=True):
    return {f"{name}.weight": (into, out), **({f"{name}.bias": (into,)} if bias else {})}


def norm(name, dim=DIM):
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def vit_block(at, bias=True):
    attention = {
        **norm(f"{at}.norm1"),
        **linear(f"{at}.attn.qkv", 3 * DIM, DIM, bias),
        **linear(f"{at}.attn.proj", DIM, DIM),
    }
    return {
        **attention,
        **norm(f"{at}.norm2"),
        **linear(f"{at}.mlp.fc1", 4 * DIM, DIM),
        **linear(f"{at}.mlp.fc2", DIM, 4 * DIM),
    }


def vit(at="", patches=PATCHES):
    shapes = {f"{at}cls_token": (1, 1, DIM), f"{at}pos_embed": (1, 1 + patches, DIM)}
    shapes |= {f"{at}patch_embed.proj.weight": (DIM, 3, 8, 8), f"{at}patch_embed.proj.bias": (DIM,)}
    return {**shapes, **vit_block(f"{at}blocks.0"), **vit_block(f"{at}blocks.1"), **norm(f"{at}norm")}


def over_time(at):
    temporal = {**norm(f"{at}.temporal_norm1"), **linear(f"{at}.temporal_attn.qkv", 3 * DIM, DIM)}
    return {**temporal, **linear(f"{at}.temporal_attn.proj", DIM, DIM), **linear(f"{at}.temporal_fc", DIM, DIM)}


def timesformer(frames=3, patches=PATCHES, head=5):
    shapes = {**vit("model.", patches), "model.time_embed": (1, frames, DIM), **linear("model.head", head, DIM)}
    return shapes | over_time("model.blocks.0") | over_time("model.blocks.1")


def xvit(frames=8):
    """Return shapes of a file, with the linear layer that the released code makes and never uses."""
    block = {
        name.replace("at.", "consensus.temporal_encoder.0."): shape for name, shape in vit_block("at", False).items()
    }
    head = {"consensus.cls_token": (1, 1, DIM), **block, **norm("consensus.mlp_head.0")}
    head |= {**linear("consensus.mlp_head.1", DIM, DIM), **linear("consensus.mlp_head.4", 5, DIM)}
    return {**vit("base_model."), "base_model.temp_embed": (1, frames, 1, DIM), **linear("new_fc", 5, DIM), **head}


def star_vqa():
    own = {name: shape for name, shape in timesformer(frames=52).items() if "head" not in name}
    return {**own, **linear("model.head.fc1", DIM, DIM), **linear("model.head.fc2", 6, DIM)}


def avt(dim=8):
    """Return shapes of a file, with the buffers that old releases of transformers saved beside the weights."""
    at = "future_predictor.gpt_model"
    shapes = {**vit("backbone.model."), **linear("classifiers.action", 5, DIM), "cls_map_action": (3, 5)}
    shapes |= {"future_predictor.encoder.weight": (dim, DIM), "future_predictor.decoder.weight": (DIM, dim)}
    shapes |= {f"{at}.wpe.weight": (6, dim), **norm(f"{at}.ln_f", dim)}
    for n in range(2):
        shapes |= {**norm(f"{at}.h.{n}.ln_1", dim), **norm(f"{at}.h.{n}.ln_2", dim)}
        shapes |= {f"{at}.h.{n}.attn.bias": (1, 1, 6, 6), f"{at}.h.{n}.attn.masked_bias": ()}
        for layer, out, into in (
            ("attn.c_attn", 3, 1),
            ("attn.c_proj", 1, 1),
            ("mlp.c_fc", 4, 1),
            ("mlp.c_proj", 1, 4),
        ):
            shapes |= {f"{at}.h.{n}.{layer}.weight": (into * dim, out * dim), f"{at}.h.{n}.{layer}.bias": (out * dim,)}
    return shapes


def own_avt():
    return models.AVT(5, head={"dim": 8, "depth": 2, "heads": 2, "positions": 6}, **VIT)


def swin():
    """Return shapes of two stages with one block each, of 4 and 8 channels, and windows of (2, 3, 3)."""
    shapes = {"backbone.patch_embed.proj.weight": (4, 3, 2, 4, 4), "backbone.patch_embed.proj.bias": (4,)}
    shapes |= {**norm("backbone.patch_embed.norm", 4), **norm("backbone.norm", 8), **linear("cls_head.fc_cls", 5, 8)}
    for stage, (dim, heads) in enumerate(((4, 1), (8, 2))):
        at = f"backbone.layers.{stage}.blocks.0"
        shapes |= {
            f"{at}.attn.relative_position_bias_table": (75, heads),
            f"{at}.attn.relative_position_index": (18, 18),
        }
        shapes |= {**norm(f"{at}.norm1", dim), **norm(f"{at}.norm2", dim), **linear(f"{at}.attn.qkv", 3 * dim, dim)}
        shapes |= {**linear(f"{at}.attn.proj", dim, dim), **linear(f"{at}.mlp.fc1", 4 * dim, dim)}
        shapes |= linear(f"{at}.mlp.fc2", dim, 4 * dim)
    at = "backbone.layers.0.downsample"
    return {**shapes, f"{at}.reduction.weight": (8, 16), **norm(f"{at}.norm", 16)}


def own_swin(**options):
    return models.VideoSwin(classes=5, **{"dim": 4, "depths": (1, 1), "heads": (1, 2), "window": (2, 3, 3), **options})


def own_timesformer(**options):
    return models.TimeSformer(3, classes=5, **{**VIT, **options})


# --- what fits --------------------------------------------------------------------------------------
def test_timesformer_as_published(tmp_path):
    weights = drawn(timesformer())
    junk = drawn(linear("model.blocks.0.temporal_temporal_attn.qkv", 36, 12))
    saved = {"epoch": 15, "model_state": {**weights, **junk}, "optimizer_state": {"state": {}}, "cfg": "TRAIN: ..."}
    torch.save(saved, tmp_path / "TimeSformer_divST_8x32_224_K400.pyth")
    network = models.load(own_timesformer(), tmp_path / "TimeSformer_divST_8x32_224_K400.pyth")
    own = network.state_dict()
    assert own.keys() == {name.removeprefix("model.") for name in weights}
    assert all((own[name.removeprefix("model.")] == value).all() for name, value in weights.items())


def test_positions_of_another_size_are_interpolated_along_each_axis():
    """The released code interpolates along the flattened frame, which mixes rows."""
    saved = drawn(timesformer(frames=2))
    network = models.load(own_timesformer(size=(32, 16)), saved)
    old, new = saved["model.pos_embed"][0], network.pos_embed.detach()[0]
    assert (new[0] == old[0]).all()
    assert (new[1:].reshape(4, 2, DIM) == old[1:].reshape(2, 2, DIM)[[0, 0, 1, 1]]).all()
    times, positions = saved["model.time_embed"][0], network.time_embed.detach()[0]
    assert (positions == times[[0, 0, 1]]).all()


def test_xvit_as_published_repeats_its_positions_in_time():
    saved = drawn(xvit())
    network = models.load(models.XViT(12, classes=5, n_div=4, **VIT), {"epoch": 1, "model_state": saved, "cfg": ""})
    assert (network.temp_embed[:, :8] == saved["base_model.temp_embed"]).all()
    assert (network.temp_embed[:, 8:] == saved["base_model.temp_embed"][:, :4]).all()
    assert (network.head.cls_token == saved["consensus.cls_token"]).all()
    assert (network.head.fc2.weight == saved["consensus.mlp_head.4.weight"]).all()
    assert (network.head.block.attn.qkv.weight == saved["consensus.temporal_encoder.0.attn.qkv.weight"]).all()
    assert (network.blocks[1].mlp.fc2.bias == saved["base_model.blocks.1.mlp.fc2.bias"]).all()


def test_star_vqa_as_published():
    saved = drawn(star_vqa())
    own = models.load(models.StarVQA(52, **VIT), {"model_state": saved}).state_dict()
    assert own.keys() == {name.removeprefix("model.") for name in saved}
    assert all((own[name.removeprefix("model.")] == value).all() for name, value in saved.items())


def test_avt_as_published_has_its_conv1d_weights_transposed():
    saved = drawn(avt())
    own = models.load(own_avt(), {"model": saved, "optimizer": {"state": {}}, "epoch": 3}).state_dict()
    at = "future_predictor.gpt_model"
    assert (own["head.blocks.1.attn.qkv.weight"] == saved[f"{at}.h.1.attn.c_attn.weight"].T).all()
    assert (own["head.blocks.0.mlp.fc2.weight"] == saved[f"{at}.h.0.mlp.c_proj.weight"].T).all()
    assert (own["head.blocks.0.attn.proj.bias"] == saved[f"{at}.h.0.attn.c_proj.bias"]).all()
    assert (own["head.positions"] == saved[f"{at}.wpe.weight"]).all()
    assert (own["head.encoder.weight"] == saved["future_predictor.encoder.weight"]).all()
    assert (own["backbone.blocks.1.norm2.weight"] == saved["backbone.model.blocks.1.norm2.weight"]).all()
    assert (own["classifier.bias"] == saved["classifiers.action.bias"]).all()


def test_avt_takes_image_weights_for_its_backbone():
    image, network = drawn({**vit(), **linear("head", 1000, DIM)}), own_avt()
    encoder = network.head.encoder.weight.clone()
    models.load(network, image)
    assert (network.backbone.norm.weight == image["norm.weight"]).all()
    assert (network.head.encoder.weight == encoder).all()
    refused(models.AVT(5, features=4, head={"dim": 8}), image, "source is of images, expected features: the model, AVT")


def test_video_swin_as_published():
    saved = drawn(swin())
    network = models.load(own_swin(), {"state_dict": saved, "meta": {"epoch": 30}})
    own = network.state_dict()
    assert (own["head.weight"] == saved["cls_head.fc_cls.weight"]).all()
    named = {f"backbone.{name}": value for name, value in own.items() if not name.startswith("head")}
    assert {name for name in saved if name[:8] == "backbone" and "index" not in name} == named.keys()
    assert all((value == saved[name]).all() for name, value in named.items())


@pytest.mark.parametrize("wrap", [None, "state_dict"])
def test_image_weights_initialise_temporal_attention_too(wrap):
    image = drawn({**vit(), **linear("head", 1000, DIM)})
    network = own_timesformer()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    own = models.load(network, {wrap: image} if wrap else image).state_dict()
    for n in range(2):
        assert (own[f"blocks.{n}.temporal_attn.qkv.weight"] == image[f"blocks.{n}.attn.qkv.weight"]).all()
        assert (own[f"blocks.{n}.temporal_norm1.bias"] == image[f"blocks.{n}.norm1.bias"]).all()
        assert (own[f"blocks.{n}.mlp.fc1.weight"] == image[f"blocks.{n}.mlp.fc1.weight"]).all()
    assert all(
        (own[name] == before[name]).all() for name in ("head.weight", "time_embed", "blocks.1.temporal_fc.weight")
    )


def test_skipped_parts_keep_their_weights():
    network = own_timesformer()
    head = network.head.weight.clone()
    models.load(network, drawn(timesformer(head=400)), skip=["head"])
    assert (network.head.weight == head).all()


def test_safetensors_are_read(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    weights = drawn(timesformer())
    save_file(weights, tmp_path / "model.safetensors")
    assert (
        models.load(own_timesformer(), tmp_path / "model.safetensors").cls_token == weights["model.cls_token"]
    ).all()


# --- what does not ----------------------------------------------------------------------------------
def refused(network, source, message, **options):
    """Check that the error says why, and that nothing was loaded."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ShiftsearchError, match=message):
        models.load(network, source, **options)
    assert all((value == before[name]).all() for name, value in network.state_dict().items())


def test_one_error_lists_all_that_does_not_fit():
    saved = drawn(timesformer(head=400))
    del saved["model.norm.bias"], saved["model.blocks.1.temporal_fc.weight"]
    saved["model.extra"] = torch.zeros(1)
    message = (
        r"does not fit TimeSformer; 2 missing: blocks.1.temporal_fc.weight, norm.bias; 1 unexpected: extra; 2 of another "
        r"shape: head.weight \(400, 12\), expected \(5, 12\), head.bias \(400,\), expected \(5,\)"
    )
    refused(own_timesformer(), saved, message)


def test_files_of_another_system_raise_an_error():
    refused(own_timesformer(), drawn(xvit()), "source is of X-ViT, expected weights for the model, TimeSformer")
    refused(own_swin(), drawn(timesformer()), "source is of TimeSformer, expected weights for the model, VideoSwin")
    refused(own_timesformer(), drawn(swin()), "source is of Video Swin, expected weights for the model, TimeSformer")
    refused(own_swin(window=(4, 3, 3)), drawn(swin()), r"bias_table \(75, 1\), expected \(175, 1\)")
    refused(own_timesformer(), drawn(star_vqa()), "source is of StarVQA, expected weights for the model, TimeSformer")
    refused(models.StarVQA(3, **VIT), drawn(timesformer()), "source is of TimeSformer, .* the model, StarVQA")
    refused(own_timesformer(), drawn(avt()), "source is of AVT, expected weights for the model, TimeSformer")
    network = models.XViT(8, classes=5, n_div=4, **VIT)
    refused(network, drawn(timesformer()), "source is of TimeSformer, expected weights for the model, XViT")


def test_image_weights_must_be_complete():
    image = drawn(vit())
    del image["blocks.0.norm1.weight"]
    missing = "2 missing: blocks.0.norm1.weight, blocks.0.temporal_norm1.weight"
    refused(own_timesformer(), image, missing)
    refused(own_timesformer(depth=1), drawn(vit()), "unexpected: blocks.1")


def test_files_of_no_known_system_raise_an_error(tmp_path):
    refused(own_timesformer(), {"conv1.weight": torch.zeros(1)}, "source is of no known system, it has conv1.weight")
    refused(own_timesformer(), {}, "source is of no known system, it has no tensors")
    refused(own_timesformer(), 7, "source is a int, expected a file or a mapping")
    refused(own_timesformer(), tmp_path / "none.pt", "source cannot be read: .*none.pt")
    with pytest.raises(ShiftsearchError, match=r"model is a Linear, expected one of shiftsearch\.models"):
        models.load(torch.nn.Linear(2, 2), drawn(timesformer()))


def test_files_that_would_run_code_and_broken_files_are_not_read(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for name, message in {
        "code.pt": "no weights that can be read without running code",
        "broken.pt": "no weights that can be read",
        "empty.pt": "no weights that can be read",
        "list.pt": "has a list, expected a mapping of names to tensors",
    }.items():
        refused(own_timesformer(), tmp_path / name, message)
