"""Backbones of other authors, from file to map: equal to timm's and transformers' networks, and blind to padding.

All parameters are random. The quick tests shrink the network of a name; the slow ones are of the published size.
"""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.backbones import build_backbone, convnext
from sret_jax.models.backbones.base import ATTENTION_POOL, CLASS_TOKEN
from sret_jax.models.backbones.vit_specs import SPECS
from sret_jax.models.weights.file import read_weights, write_weights
from sret_jax.models.weights.pretrained import pretrained

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

from tests.support.published_networks import drawn, network_input, saved, timm_network  # noqa: E402

pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

HALF = (0.5,) * 3
SMALL = {"width": 48, "depth": 2, "heads": 3}
TIMM_SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
HF_SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}


def reference(network, forward, state=None):
    return SimpleNamespace(forward=forward, state=state or network.state_dict(), network=network)


def _as_map(tokens, h, w):
    return tokens.reshape(len(tokens), h, w, -1)


def of_timm(name, patch, special, **changes):
    """Its tokens and pooled vector; `special` tokens are before the patches."""
    network = timm_network(name, dynamic_img_size=True, **changes)
    attention, given = network.blocks[-1].attn, []
    network.blocks[-1].norm1.register_forward_hook(lambda module, x, out: given.append(out))

    def forward(x):
        h, w = x.shape[2] // patch, x.shape[3] // patch
        given.clear()
        last, middle = network.forward_intermediates(x, indices=[len(network.blocks) // 2 - 1], norm=True)
        maps = {"last": _as_map(last[:, special:], h, w), "c4": middle[0].movedim(1, 3)}
        bias = None if attention.qkv.bias is None else attention.qkv.bias.chunk(3)[1]
        keys = torch.nn.functional.linear(given[0], attention.qkv.weight.chunk(3)[1], bias)
        maps["keys"] = _as_map(keys[:, special:], h, w)
        if network.cls_token is not None:
            maps[CLASS_TOKEN] = last[:, :1, None]
        if network.attn_pool is not None:
            maps[ATTENTION_POOL] = network.forward_head(last)[:, None, None]
        return maps

    return reference(network, forward)


def of_transformers(network, patch, special, rename=None, **options):
    network = drawn(network)

    def forward(x):
        h, w = x.shape[2] // patch, x.shape[3] // patch
        out = network(x, **options)
        maps = {"last": _as_map(out.last_hidden_state[:, special:], h, w)}
        if special:
            maps[CLASS_TOKEN] = out.last_hidden_state[:, :1, None]
        elif out.pooler_output is not None:
            maps[ATTENTION_POOL] = out.pooler_output[:, None, None]
        return maps

    state = network.state_dict()
    return reference(network, forward, rename(state) if rename else state)


def of_dinov3(gated=False, **changes):
    options = HF_SMALL | {"num_register_tokens": 4, "intermediate_size": 192, "use_gated_mlp": gated} | changes
    options["hidden_act"] = "silu" if gated else "gelu"  # as the released configs have it
    return of_transformers(
        transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**options)),
        16,
        5,
        lambda state: {k.replace("model.layer", "layer"): v for k, v in state.items()},
    )


def of_dinov2(registers, image_size, old=False, **changes):
    kind, config = (
        (transformers.Dinov2WithRegistersModel, transformers.Dinov2WithRegistersConfig)
        if registers
        else (transformers.Dinov2Model, transformers.Dinov2Config)
    )

    def renamed(state):
        """As transformers before 5 named them, and as it still saves them."""
        for new, before in (
            *((f"attention.{part[0]}_proj", f"attention.attention.{part}") for part in ("query", "key", "value")),
            ("attention.o_proj", "attention.output.dense"),
        ):
            state = {k.replace(new, before): v for k, v in state.items()}
        return state

    network = kind(config(**(HF_SMALL | {"image_size": image_size, "patch_size": 14} | changes)))
    return of_transformers(network, 14, 1 + 4 * registers, renamed if old else None)


def of_siglip(patch=16, image_size=224, beside_text=False, **changes):
    options = HF_SMALL | {"patch_size": patch, "image_size": image_size, "intermediate_size": 192} | changes
    network = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**options))

    def renamed(state):
        text = {"text_model.embeddings.token_embedding.weight": torch.ones(3, 5), "logit_scale": torch.ones(1)}
        return {f"vision_model.{k}": v for k, v in state.items()} | text

    return of_transformers(network, patch, 0, renamed if beside_text else None, interpolate_pos_encoding=True)


def of_timm_siglip(name, patch, under=""):
    found = of_timm(name, patch, 0, **TIMM_SMALL, mlp_ratio=4)
    if under:
        found.state = {f"visual.trunk.{k}": v for k, v in found.state.items()}
        found.state |= {"text.positional_embedding": torch.ones(3, 5), "logit_bias": torch.ones(())}
    return found


def of_metas_dinov3(gated):
    """Meta's file: one fused bias, of which that of the keys is masked, and the periods of the rotary positions."""
    found = of_timm(
        "vit_small_plus_patch16_dinov3_qkvb" if gated else "vit_small_patch16_dinov3_qkvb", 16, 5, **TIMM_SMALL
    )
    state = {}
    for key, value in found.state.items():
        if key.endswith("q_bias"):
            masked = torch.randn(48)
            value = torch.cat([value, masked, found.state[key.replace("q_bias", "v_bias")]])
            key = key.replace("q_bias", "qkv.bias")
            state[key + "_mask"] = torch.cat([torch.ones(48), torch.zeros(48), torch.ones(48)])
        elif key.endswith("v_bias"):
            continue
        for theirs, metas in (
            ("gamma_", "ls"),
            ("reg_token", "storage_tokens"),
            ("fc1_g", "w1"),
            ("fc1_x", "w2"),
        ):
            key = key.replace(theirs, metas)
        key = key.replace("fc2", "w3") if gated else key
        state[key + ".gamma" if key[-3:] in ("ls1", "ls2") else key] = value
    found.state = state | {"mask_token": torch.zeros(1, 48), "rope_embed.periods": found.network.rope.periods}
    return found


DINOV3 = SMALL
PE = SMALL | {"pool_heads": 8, "projection": 20}
CASES = {  # name, what is smaller of it, layout, reference, image mean and deviation
    "dinov3 of timm": (
        "dinov3_vits16",
        DINOV3,
        "timm-dinov3",
        lambda: of_timm("vit_small_patch16_dinov3", 16, 5, **TIMM_SMALL),
    ),
    "dinov3 of timm, with biases": (
        "dinov3_vits16",
        DINOV3,
        "timm-dinov3",
        lambda: of_timm("vit_small_patch16_dinov3_qkvb", 16, 5, **TIMM_SMALL),
    ),
    "dinov3 plus of timm": (
        "dinov3_vits16plus",
        DINOV3,
        "timm-dinov3",
        lambda: of_timm("vit_small_plus_patch16_dinov3", 16, 5, **TIMM_SMALL),
    ),
    "dinov3 of Meta": ("dinov3_vits16", DINOV3, "dinov3", lambda: of_metas_dinov3(False)),
    "dinov3 plus of Meta": ("dinov3_vits16plus", DINOV3, "dinov3", lambda: of_metas_dinov3(True)),
    "dinov3 of transformers": ("dinov3_vits16", DINOV3, "transformers-dinov3", of_dinov3),
    "dinov3 plus of transformers": ("dinov3_vits16plus", DINOV3, "transformers-dinov3", lambda: of_dinov3(gated=True)),
    "lingbot": (
        "lingbot_vits16",
        DINOV3,
        "timm-dinov3",
        lambda: of_timm("vit_small_patch16_lingbot", 16, 5, **TIMM_SMALL),
    ),
    "dinov2 of transformers": ("dinov2_vits14", SMALL, "transformers-dinov2", lambda: of_dinov2(False, 518)),
    "dinov2 of transformers at 224": ("dinov2_vits14", SMALL, "transformers-dinov2", lambda: of_dinov2(False, 224)),
    "dinov2 with registers": ("dinov2_vits14_reg", SMALL, "transformers-dinov2", lambda: of_dinov2(True, 518)),
    "dinov2 as saved before": (
        "dinov2_vits14_reg",
        SMALL,
        "transformers-dinov2-old",
        lambda: of_dinov2(True, 224, True),
    ),
    "pe of timm": (
        "pe_core_vits16",
        PE,
        "timm-pe",
        lambda: of_timm("vit_pe_core_small_patch16_384", 16, 1, **TIMM_SMALL, num_classes=20),
    ),
    "siglip of timm": (
        "siglip2_vitb16",
        SMALL | {"pool_heads": 3},
        "timm-siglip",
        lambda: of_timm_siglip("vit_base_patch16_siglip_224", 16),
    ),
    "siglip of timm beside a text tower": (
        "siglip2_vitb16",
        SMALL | {"pool_heads": 3},
        "timm-siglip",
        lambda: of_timm_siglip("vit_base_patch16_siglip_384", 16, "visual"),
    ),
    "siglip so400m of timm": (
        "siglip2_so400m14",
        SMALL | {"pool_heads": 3, "hidden": 192},
        "timm-siglip",
        lambda: of_timm_siglip("vit_so400m_patch14_siglip_384", 14),
    ),
    "siglip of transformers": ("siglip2_vitb16", SMALL | {"pool_heads": 3}, "transformers-siglip", of_siglip),
    "siglip beside a text tower": (
        "siglip2_so400m14",
        SMALL | {"pool_heads": 3, "hidden": 192},
        "transformers-siglip",
        lambda: of_siglip(14, 384, True),
    ),
}


def _run(name, variables, images, mask, last_stage):
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    run = jax.jit(lambda v, x, m: build_backbone(name).apply(v, x, m, last_stage=last_stage), compiler_options=quick)
    return run(variables, jnp.asarray(images), jnp.asarray(mask))


def compared(found, expected, tolerance=1e-4):
    """Of every map: cosine, and the difference in units of the map's own size."""
    for stage, values in expected.items():
        ours, theirs = np.asarray(found[stage][0], np.float64), values.double().numpy()
        assert ours.shape == theirs.shape, stage
        size = np.sqrt((theirs**2).mean())
        np.testing.assert_allclose(ours / max(size, 1), theirs / max(size, 1), atol=tolerance, err_msg=stage)
        a, b = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1])
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99999, stage


def check(name, layout, found, path, patch, mean, deviation, shape=(5, 7)):
    """The maps of a file at a size of its own, alone and in a larger bucket."""
    saved(found.state, path)
    weights = read_weights(path, backbone=name)
    assert (weights.backbone, weights.layout) == (name, layout)
    # What is particular to the weights is kept when they are converted.
    write_weights(path.with_name("own.safetensors"), weights)
    variables = {c: t["backbone"] for c, t in pretrained(name, str(path.with_name("own.safetensors"))).items()}
    size = tuple(patch * n for n in shape)
    bucket = size[0] + 3 * patch, size[1]
    images = np.random.default_rng(0).integers(0, 256, (2, *bucket, 3), np.uint8)
    with torch.no_grad():
        expected = found.forward(network_input(images[:, : size[0], : size[1]], mean, deviation))
    last = ATTENTION_POOL if ATTENTION_POOL in expected else CLASS_TOKEN
    alone = _run(name, variables, images[:, : size[0], : size[1]], np.ones((2, *size), bool), last)
    compared(alone, expected)
    mask = np.zeros(images.shape[:3], bool)
    mask[:, : size[0], : size[1]] = True
    padded = _run(name, variables, images, mask, last)
    for stage, (values, inside) in alone.items():
        rows, columns = values.shape[1:3]
        same = padded[stage][0][:, :rows, :columns]
        np.testing.assert_allclose(same, values, atol=2e-5 * max(1, np.abs(values).max()), err_msg=stage)
        assert inside.all() and not np.asarray(padded[stage][0][:, rows:]).any()


@pytest.mark.parametrize("case", CASES)
def test_transformers_are_those_of_their_authors(case, tmp_path, monkeypatch):
    name, smaller, layout, make = CASES[case]
    monkeypatch.setitem(SPECS, name, spec := SPECS[name]._replace(**smaller))
    suffix = ".pth" if list(CASES).index(case) % 2 else ".safetensors"
    check(name, layout, make(), tmp_path / f"net{suffix}", spec.patch, spec.mean, spec.deviation)


CONVNEXT = convnext.ConvNeXtSize((1, 2, 2, 1), (8, 16, 24, 32))


def of_convnext(layout):
    """transformers' network, with its own names, Meta's or timm's; timm has no norm on the map, so this one has."""
    network = drawn(
        transformers.DINOv3ConvNextModel(
            transformers.DINOv3ConvNextConfig(hidden_sizes=list(CONVNEXT.widths), depths=list(CONVNEXT.depths))
        )
    )

    def forward(x):
        stages = network(x, output_hidden_states=True).hidden_states[-4:]
        out = network(x).last_hidden_state
        maps = {f"c{2 + i}": stage.movedim(1, 3) for i, stage in enumerate(stages)}
        h, w = x.shape[2] // 32, x.shape[3] // 32
        return maps | {"last": _as_map(out[:, 1:], h, w), CLASS_TOKEN: out[:, :1, None]}

    names = {
        "transformers-convnext": (),
        "convnext": (
            (r"stages\.(\d)\.downsample_layers", r"downsample_layers.\1"),
            (r"\.layers\.(\d)", r".\1"),
            ("depthwise_conv", "dwconv"),
            (r"(\d)\.layer_norm", r"\1.norm"),
            ("^layer_norm", "norm"),
            ("pointwise_conv", "pwconv"),
        ),
        "timm-convnext": (
            (r"stages\.0\.downsample_layers", "stem"),
            ("downsample_layers", "downsample"),
            (r"\.layers\.", ".blocks."),
            ("depthwise_conv", "conv_dw"),
            (r"(\d)\.layer_norm", r"\1.norm"),
            ("^layer_norm", "head.norm"),
            ("pointwise_conv", "mlp.fc"),
        ),
    }[layout]

    def renamed(key):
        key = key.removeprefix("model.")
        for theirs, other in names:
            key = re.sub(theirs, other, key)
        return key

    return reference(network, forward, {renamed(k): v for k, v in network.state_dict().items()})


@pytest.mark.parametrize("layout", ["transformers-convnext", "convnext", "timm-convnext"])
def test_convnext_is_that_of_its_authors(layout, tmp_path, monkeypatch):
    monkeypatch.setitem(convnext.SIZES, "dinov3_convnext_tiny", CONVNEXT)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = of_convnext(layout)
    check("dinov3_convnext_tiny", layout, found, tmp_path / "net.safetensors", 32, mean, deviation, shape=(2, 3))
    if layout == "timm-convnext":  # and these are timm's own keys, but for the classifier
        state = timm_network("convnext_tiny", depths=CONVNEXT.depths, dims=CONVNEXT.widths).state_dict()
        assert {k: v.shape for k, v in state.items() if "head.fc" not in k} == {
            k: v.shape for k, v in found.state.items()
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout", "make"),
    [
        ("dinov3_vits16", "timm-dinov3", lambda: of_timm("vit_small_patch16_dinov3", 16, 5)),
        ("pe_core_vits16", "timm-pe", lambda: of_timm("vit_pe_core_small_patch16_384", 16, 1)),
        ("siglip2_vitb16", "timm-siglip", lambda: of_timm("vit_base_patch16_siglip_224", 16, 0)),
        (
            "dinov2_vits14",
            "transformers-dinov2",
            lambda: of_dinov2(False, 518, hidden_size=384, num_hidden_layers=12, num_attention_heads=6),
        ),
    ],
)
def test_networks_of_the_published_size(name, layout, make, tmp_path):
    spec = SPECS[name]
    check(name, layout, make(), tmp_path / "net.safetensors", spec.patch, spec.mean, spec.deviation)
