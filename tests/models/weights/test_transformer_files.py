"""Files of vision transformers, with their authors' names and narrow blocks: what they are taken for, and what is said
of photographs in them or beside them."""

import json

import numpy as np
import pytest
import safetensors.numpy

from sret_jax.errors import UserError
from sret_jax.models.backbones.vit_specs import SPECS
from sret_jax.models.weights.file import read_weights
from sret_jax.models.weights.layouts import FORMS
from sret_jax.models.weights.layouts.transformer_names import NAMINGS
from sret_jax.models.weights.layouts.transformers import transformer_layout

SMALL = {"width": 24, "depth": 2, "heads": 3, "grid": 4}
NETWORKS = {  # layout: backbone
    "dinov2": "dinov2_vits14",
    "timm": "dinov2_vits14_reg",
    "transformers-dinov2": "dinov2_vits14",
    "timm-pe": "pe_core_vits16",
    "pe": "pe_core_vits16",
    "timm-siglip": "siglip2_vitb16",
    "transformers-siglip": "siglip2_vitb16",
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    for name in set(NETWORKS.values()):
        small = SMALL | ({"projection": 12} if SPECS[name].projection else {})
        monkeypatch.setitem(SPECS, name, SPECS[name]._replace(**small))


def state_of(layout):
    """Every entry of a network with the names of this layout, drawn."""
    naming, spec = NAMINGS[layout], SPECS[NETWORKS[layout]]
    telling = {naming.patches.format("weight"): (spec.width, 3, spec.patch, spec.patch)}
    if spec.registers:
        telling[naming.registers] = (1, spec.registers, spec.width)
    for i in range(spec.depth):
        telling[naming.block.format(i=i) + naming.mlp[0].format("weight")] = (spec.perceptron, spec.width)
    if naming.pool:
        telling[naming.pool.probe] = telling[naming.pool.projection.format("weight")] = ()
    leaves = transformer_layout(layout, {k: np.zeros(v) for k, v in telling.items() if k}, "x").leaves
    rng = np.random.default_rng(0)
    state = {key: rng.random(FORMS[leaf.form].wanted(leaf.shape), np.float32) for key, leaf in leaves.items()}
    return state | ({"mask_token": np.zeros((1, 24), np.float32)} if layout == "dinov2" else {})


def written(folder, state, **beside):
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(state, folder / "model.safetensors", {"format": "pt"})
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def shown(weights):
    statistics = weights.variables["batch_stats"]["backbone"]
    return statistics["image_mean"].tolist(), statistics["image_deviation"].tolist()


@pytest.mark.parametrize("layout", NETWORKS)
def test_photographs_are_normalised_as_the_file_says_and_else_as_the_network_does(layout, tmp_path):
    state, spec = state_of(layout), SPECS[NETWORKS[layout]]
    found = read_weights(written(tmp_path / "silent", state))
    assert (found.layout, found.backbone) == (layout, NETWORKS[layout])
    np.testing.assert_allclose(shown(found), (spec.mean, spec.deviation), rtol=1e-6)
    mean, deviation = [0.125, 0.25, 0.375], [0.5, 0.625, 0.75]
    for beside in (
        {"config": {"pretrained_cfg": {"mean": mean, "std": deviation}}},
        {"preprocessor_config": {"image_mean": mean, "image_std": deviation}},
    ):
        assert shown(read_weights(written(tmp_path / next(iter(beside)), state, **beside))) == (mean, deviation)
    only = read_weights(written(tmp_path / "only", state, preprocessor_config={"image_mean": mean}))
    np.testing.assert_allclose(shown(only), (mean, spec.deviation), rtol=1e-6)


CLIP = {  # layout that has its names: what CLIP has not, and what it has beside
    "timm-pe": (("attn_pool.", "head."), ()),
    "pe": (("attn_pool.",), ()),
    "transformers-siglip": (("head.",), ("embeddings.class_embedding", "pre_layrnorm.weight", "pre_layrnorm.bias")),
}


def without(layout, beginnings, *more):
    state = {key: value for key, value in state_of(layout).items() if not key.startswith(beginnings)}
    return state | {key: np.ones(24, np.float32) for key in more}


@pytest.mark.parametrize("layout", CLIP)
@pytest.mark.parametrize("prefix", ["", "model.", "visual."])
def test_clip_is_not_read_as_a_network_with_its_names(layout, prefix, tmp_path):
    left_out, more = CLIP[layout]
    state = {prefix + key: value for key, value in without(layout, left_out, *more).items()}
    with pytest.raises(UserError, match="seems to hold a CLIP network, which is none of those here; choose weights"):
        read_weights(written(tmp_path, state))
    named = {key.removeprefix(prefix): value for key, value in state.items()}
    with pytest.raises(UserError, match="seems to hold a CLIP network"):  # said to be what it is not
        read_weights(written(tmp_path, named), layout=layout)


@pytest.mark.parametrize(
    "state",
    [
        lambda: without("timm-pe", ("attn_pool.", "head."), "blocks.0.gamma_1", "blocks.1.gamma_1"),
        lambda: without("timm-pe", ("attn_pool.", "head.", "norm.")),
        lambda: without("pe", ("attn_pool.", "proj"), "transformer.resblocks.0.ls_1.gamma"),
    ],
)
def test_other_networks_of_perception_encoder_are_named(state, tmp_path):
    with pytest.raises(UserError, match="seems to hold Perception Encoder's lang or spatial network"):
        read_weights(written(tmp_path, state()))


@pytest.mark.parametrize(
    ("layout", "key", "shape"),
    [
        ("dinov2", "patch_embed.proj.weight", (24,)),
        ("dinov2", "blocks.0.mlp.fc1.weight", ()),
        ("dinov2", "pos_embed", (24,)),
        ("dinov2", "pos_embed", (1, 0, 24)),
        ("dinov2", "pos_embed", (1, 1, 24)),
        ("dinov2", "pos_embed", (1, 3, 24)),
        ("dinov2", "cls_token", ()),
        ("timm", "reg_token", (24,)),
        ("timm", "reg_token", ()),
        ("pe", "positional_embedding", (24,)),
        ("pe", "proj", ()),
        ("timm-siglip", "attn_pool.latent", ()),
        ("transformers-siglip", "embeddings.position_embedding.weight", ()),
        ("transformers-dinov2", "embeddings.patch_embeddings.projection.weight", ()),
    ],
)
def test_an_entry_of_another_form_is_named(layout, key, shape, tmp_path):
    with pytest.raises(UserError, match=rf": '{key}' (of the layout|has the shape|has \d positions)"):
        read_weights(written(tmp_path, state_of(layout) | {key: np.zeros(shape, np.float32)}))


@pytest.mark.parametrize(
    ("beside", "text"),
    [
        ({"config": {"pretrained_cfg": [1]}}, r"'pretrained_cfg' in config\.json is \[1\], not an object"),
        ({"config": {"pretrained_cfg": {"interpolation": 3}}}, r"'interpolation' in config\.json is 3, not a string"),
        ({"config": {"pretrained_cfg": {"mean": "abc"}}}, "its mean and std of photographs are not three numbers each"),
        ({"config": {"pretrained_cfg": {"mean": [10**400] * 3}}}, "are not three numbers each"),
        ({"config": {"pretrained_cfg": {"std": ["0.5"] * 3}}}, "are not three numbers each"),
        (
            {"preprocessor_config": {"rescale_factor": "x"}},
            r"'rescale_factor' in preprocessor_config\.json is 'x', not",
        ),
        ({"preprocessor_config": {"rescale_factor": True}}, "'rescale_factor' in .* is True, not a number"),
        ({"preprocessor_config": {"rescale_factor": 10**400}}, "'rescale_factor' in .*, not a number"),
        ({"preprocessor_config": {"rescale_factor": 1.0}}, r"are not scaled to 0\.\.1 \(rescale_factor in"),
        ({"preprocessor_config": {"do_rescale": False}}, r"are not scaled to 0\.\.1 \(do_rescale in"),
        ({"preprocessor_config": {"do_rescale": "no"}}, "'do_rescale' in .* is 'no', not true or false"),
        ({"preprocessor_config": {"do_normalize": 0}}, "'do_normalize' in .* is 0, not true or false"),
        ({"preprocessor_config": {"resample": [3]}}, r"'resample' in .* is \[3\], not a number"),
        ({"preprocessor_config": {"image_mean": [0.5] * 3, "image_std": 1}}, "'image_std' in .* is 1, not a list"),
        ({"preprocessor_config": {"image_mean": 0.5}}, "are not three numbers each"),
    ],
)
def test_a_value_of_another_type_beside_a_file_is_named(beside, text, tmp_path):
    with pytest.raises(UserError, match=text) as error:
        read_weights(written(tmp_path, state_of("dinov2"), **beside))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_null_is_nothing_said(tmp_path):
    silent = {"config": {"pretrained_cfg": None}, "preprocessor_config": dict.fromkeys(["image_mean", "resample"])}
    found = read_weights(written(tmp_path, state_of("dinov2"), **silent))
    assert found.filter == "" and shown(found) == shown(read_weights(written(tmp_path / "x", state_of("dinov2"))))
