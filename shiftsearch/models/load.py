"""Weights that others have published, or saved, for the models of this package."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from shiftsearch.errors import ShiftsearchError

Names = Mapping[str, "str | Callable[[re.Match[str]], str]"]
_WRAPPERS = ("model_state", "model_state_dict", "state_dict", "model", "params")
_PREFIXES = ("module.", "model.")
_SHOWN = 20  # names of a list in an error


@dataclass(frozen=True)
class _Format:
    """How the files of a system name what is in them."""

    system: str  # as messages call it
    models: Collection[str]  # classes that take such files
    marker: str  # what some name in them, and in no file of a format further down, matches
    names: Names = field(default_factory=dict)  # what to replace, in this order
    unused: str = r"(?!)"  # names of what no model needs
    transposed: str = r"(?!)"  # names, as in the file, of matrices that are stored the other way round
    image: bool = False  # weights of a network of images, of which the model makes its own


_HUGGING_FACE: Names = {
    r"^timesformer\.": "",
    r"^embeddings\.cls_token": "cls_token",
    r"^embeddings\.position_embeddings": "pos_embed",
    r"^embeddings\.time_embeddings": "time_embed",
    r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^encoder\.layer\.": "blocks.",
    r"\.temporal_layernorm\.": ".temporal_norm1.",
    r"\.temporal_dense\.": ".temporal_fc.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"attention\.attention\.qkv\.": "attention.qkv.",
    r"attention\.output\.dense\.": "attention.proj.",
    r"\.output\.dense\.": ".mlp.fc2.",
    r"attention\.(?=qkv|proj)": "attn.",
    r"^layernorm\.": "norm.",
    r"^classifier\.": "head.",
}
_XVIT: Names = {
    r"^base_model\.": "",
    r"^consensus\.temporal_encoder\.0\.": "head.block.",
    r"^consensus\.mlp_head\.0\.": "head.norm.",
    r"^consensus\.mlp_head\.1\.": "head.fc1.",
    r"^consensus\.mlp_head\.4\.": "head.fc2.",
    r"^consensus\.": "head.",
}
_AVT: Names = {
    r"^backbone\.model\.": "backbone.",
    r"^future_predictor\.gpt_model\.wpe\.weight$": "head.positions",
    r"^future_predictor\.gpt_model\.h\.": "head.blocks.",
    r"^future_predictor\.gpt_model\.ln_f\.": "head.norm.",
    r"^future_predictor\.": "head.",
    r"\.ln_([12])\.": r".norm\1.",
    r"\.attn\.c_attn\.": ".attn.qkv.",
    r"\.attn\.c_proj\.": ".attn.proj.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
    r"^classifiers\.action\.": "classifier.",
}
_NOT_OF_AVT = r"gpt_model\.h\.\d+\.attn\.(masked_)?bias$|gpt_model\.wte\.|^cls_map_|^classifiers\.(?!action\.)"
_SWIN: Names = {r"^backbone\.": "", r"^cls_head\.fc_cls\.": "head."}
_TORCHVISION: Names = {
    r"^features\.(\d*[02468])\.": lambda found: f"layers.{int(found[1]) // 2}.blocks.",
    r"^features\.(\d*[13579])\.": lambda found: f"layers.{int(found[1]) // 2}.downsample.",
    r"\.mlp\.0\.": ".mlp.fc1.",
    r"\.mlp\.3\.": ".mlp.fc2.",
}
_BUFFERS = r"relative_position_index$|attn_mask$"  # follow from the sizes
_IMAGE = ["ViT", "TimeSformer", "StarVQA", "XViT", "AVT"]
_FORMATS = (
    _Format("Hugging Face's TimeSformer", ["TimeSformer"], r"\.attention\.attention\.qkv\.", _HUGGING_FACE),
    _Format("X-ViT", ["XViT"], r"(^|\.)temp_embed$", _XVIT, unused=r"(^|\.)new_fc\."),
    _Format("torchvision's Video Swin", ["VideoSwin"], r"^features\.0\.0\.attn\.relative", _TORCHVISION, _BUFFERS),
    _Format("Video Swin", ["VideoSwin"], r"layers\.0\.blocks\.0\.attn\.relative", _SWIN, _BUFFERS),
    _Format("AVT", ["AVT"], r"^future_predictor\.|^head\.encoder\.", _AVT, _NOT_OF_AVT, r"\.c_(attn|proj|fc)\.weight$"),
    _Format("RVRT", ["RVRTAttention"], r"(^|\.)conv_offset\.10\."),
    _Format("SIFA's residual network", ["SIFANet"], r"^layer4_dual\."),
    _Format("SIFA's transformer", ["SIFATransformer"], r"\.between\."),
    _Format("AudioVisualAttention", ["AudioVisualAttention"], r"^cls_av\."),
    _Format("StarVQA", ["StarVQA"], r"^head\.fc1\.", unused=r"temporal_temporal"),
    _Format("TimeSformer", ["TimeSformer"], r"^time_embed$|\.temporal_fc\.", unused=r"temporal_temporal"),
    _Format("a vision transformer of images", _IMAGE, r"^blocks\.\d+\.attn\.qkv\.", image=True),
)


def load(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    skip: Sequence[str] = (),
    part: str | None = None,
) -> nn.Module:
    """Load weights that a system's authors published, or that were saved here, into a model of this package.

    Files are read without running code from them. What wraps the weights is taken off, and their names become those of the
    model. What is learnt for each place or frame is repeated or interpolated to the sizes of the model. Nothing is loaded
    unless everything fits.

    =================  =======================================================================================
    model              takes weights of
    =================  =======================================================================================
    `TimeSformer`      its authors, Hugging Face, and vision transformers of images
    `StarVQA`          its authors, and vision transformers of images
    `XViT`             its authors, and vision transformers of images
    `VideoSwin`        its authors, torchvision, and Swin transformers of images
    `AVT`              its authors, and vision transformers of images
    `ViT`              timm: vision transformers of images, without their classifier
    `RVRTAttention`    RVRT, with `part`: it has a layer for each direction, such as "deform_align.backward_1"
    =================  =======================================================================================

    Weights of a network for images have nothing that is learnt over time, and no classifier. These stay as they were.

    Args:
        model: of this package
        source: a file of `torch.save` or of safetensors, or the mapping that it holds
        skip: beginnings of names of the model, such as "head": what stays as it was, whatever the file has for it
        part: the name of a part of the network whose weights the file has; the model takes those of this part

    Returns:
        the model

    Example:
        >>> from shiftsearch.models import TimeSformer
        >>> small = {"size": 32, "patch": 16, "dim": 8, "depth": 1, "heads": 2}
        >>> published = {"model_state": {f"model.{k}": v for k, v in TimeSformer(classes=9, **small).state_dict().items()}}
        >>> network = load(TimeSformer(classes=5, **small), published, skip=["head"])
    """
    state = _part(_stripped(_unwrapped(_read(source))), part)
    system = next((c.__name__ for c in type(model).__mro__ if any(c.__name__ in f.models for f in _FORMATS)), None)
    if system is None:
        raise ShiftsearchError(f"load: model is a {type(model).__name__}, expected one of shiftsearch.models")
    form = _Format(system, [system], "") if _same(state, model.state_dict()) else _format_of(state)
    if system not in form.models:
        raise ShiftsearchError(f"load: source is of {form.system}, expected weights for the model, {system}")
    found = _renamed(state, form)
    if form.image:
        inflated: Any = model
        found = inflated.inflated(found)
    found = {name: _fitted(model, name, value) for name, value in found.items() if not name.startswith(tuple(skip))}
    _check(model, found, form, skip)
    model.load_state_dict(found, strict=False)
    return model


def _read(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    try:
        path = os.fspath(source)
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except TypeError:
        raise ShiftsearchError(f"load: source is a {type(source).__name__}, expected a file or a mapping") from None
    except OSError as error:
        raise ShiftsearchError(f"load: source cannot be read: {error}") from error
    except ImportError as error:
        raise ShiftsearchError(f"load: {source} needs the package safetensors") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ShiftsearchError(
            f"load: {source} has no weights that can be read without running code: {reason}"
        ) from error
    if not isinstance(content, Mapping):
        raise ShiftsearchError(f"load: {source} has a {type(content).__name__}, expected a mapping of names to tensors")
    return content


def _unwrapped(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors by their names, out of what was saved beside them: settings, optimizer, counters."""
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return _unwrapped(content[key])
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return names without what they all begin with, where it says nothing."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _stripped({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _part(state: dict[str, Tensor], part: str | None) -> dict[str, Tensor]:
    """Return the weights of a part of a network, by their names within it."""
    if part is None:
        return state
    found = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
    if not found:
        parts = sorted({name.rpartition(".")[0] for name in state})
        raise ShiftsearchError(f"load: part is {part!r}, expected a part of the source, such as {_listed(parts)}")
    return found


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether these have the same names and shapes: what was saved here, whatever it looks like."""
    return one.keys() == other.keys() and all(value.shape == other[name].shape for name, value in one.items())


def _format_of(state: Mapping[str, Tensor]) -> _Format:
    """Return the first format that a file fits; it is of images if patches of one frame become tokens."""
    for form in _FORMATS:
        if any(re.search(form.marker, name) for name in state):
            flat = form.system == "Video Swin" and state.get("patch_embed.proj.weight", torch.empty(5 * (0,))).ndim == 4
            return replace(form, system="a Swin transformer of images", image=True) if flat else form
    raise ShiftsearchError(f"load: source is of no known system, it has {_listed(state) or 'no tensors'}")


def _renamed(state: Mapping[str, Tensor], form: _Format) -> dict[str, Tensor]:
    found = {}
    for name, value in state.items():
        if re.search(form.unused, name):
            continue
        value = value.t() if re.search(form.transposed, name) else value
        for pattern, new in form.names.items():
            name = re.sub(pattern, new, name)
        found[name] = value
    return found


def _fitted(model: nn.Module, name: str, value: Tensor) -> Tensor:
    """Return a tensor in the shape that the part of the model which uses it can make of it."""
    owner, _, own = name.rpartition(".")
    try:
        part: Any = model.get_submodule(owner)
    except AttributeError:
        return value  # listed as unexpected
    wanted = getattr(part, own, None)
    if wanted is None or wanted.shape == value.shape or not hasattr(part, "fitted"):
        return value
    return part.fitted(own, value.float())


def _check(model: nn.Module, found: Mapping[str, Tensor], form: _Format, skip: Sequence[str]) -> None:
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith(tuple(skip))}
    own: Any = model
    may_miss = own.not_of_images if form.image else r"(?!)"
    missing = [name for name in wanted if name not in found and not re.search(may_miss, name)]
    unexpected = [name for name in found if name not in wanted]
    shapes = [
        f"{name} {tuple(value.shape)}, expected {tuple(wanted[name].shape)}"
        for name, value in found.items()
        if name in wanted and wanted[name].shape != value.shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    wrong = [f"{len(names)} {what}: {_listed(names)}" for what, names in lists.items() if names]
    if wrong:
        raise ShiftsearchError(
            f"load: source, of {form.system}, does not fit {type(model).__name__}; {'; '.join(wrong)}"
        )


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    more = f" and {len(first) - _SHOWN} more" if len(first) > _SHOWN else ""
    return ", ".join(first[:_SHOWN]) + more
