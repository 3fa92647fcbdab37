"""Prefixes are cut to the names that the layouts know: those of real networks, whose arrays do not matter here."""

import numpy as np
import pytest

from sret_jax.models.weights.entries import Unclear, find_names, grouped, heads_among
from sret_jax.models.weights.layouts import recognised

BLOCKS = [f"layer{n}.{i}.conv{k}.weight" for n in range(1, 5) for i in range(2) for k in (1, 2)]
NAMES = {
    "torchvision": ["conv1.weight", "bn1.weight", *BLOCKS, "fc.weight"],
    "dir": ["conv1.weight", "bn1.weight", *BLOCKS, "adpool.p", "fc.weight"],
    "cirtorch": [
        "features.0.weight",
        *[f"features.{n}.{i}.conv1.weight" for n in range(4, 8) for i in (0, 1)],
        "pool.p",
    ],
    "solar": [
        "features.conv1.0.weight",
        *[f"features.conv{n}_x.{i}.conv1.weight" for n in (3, 4, 5) for i in range(3)],
    ],
    "how": ["features.0.weight", *[f"features.{n}.{i}.conv1.weight" for n in (4, 5, 6) for i in (0, 1, 2)]]
    + ["dim_reduction.weight"],
    "dinov2": ["cls_token", "mask_token", "patch_embed.proj.weight", *[f"blocks.{i}.norm1.weight" for i in range(12)]],
    "efficientnet": ["_conv_stem.weight", *[f"_blocks.{i}._expand_conv.weight" for i in range(12)]],
}


def known(state):
    return recognised(state, "auto")


def state(names, *prefixes):
    return {prefix + name: np.zeros(1) for prefix in prefixes for name in names}


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module._orig_mod.model.", "a.b.c.d."])
def test_the_prefix_is_cut_to_names_that_a_layout_knows(layout, prefix):
    found = find_names(state(NAMES[layout], prefix) | {"criterion.weight": np.zeros(1)}, known)
    assert found is not None and found.prefix == prefix and found.others == []


@pytest.mark.parametrize(
    ("prefixes", "taken"),
    [
        (("student.backbone.", "teacher.backbone."), "teacher.backbone."),
        (("encoder_k.", "encoder_q."), "encoder_q."),
        (("momentum_encoder.", "base_encoder."), "base_encoder."),
        (("online_encoder.net.", "target_encoder.net."), "target_encoder.net."),
        (("model.", "ema_model."), "ema_model."),
        (("other.", "model."), "model."),
        (("head.", "model.backbone."), "model.backbone."),
        (("", "ema."), "ema."),
        (("", "ema_model.module."), "ema_model.module."),
        (("model.", "model.ema."), "model.ema."),
        (("", "momentum_encoder."), ""),
        (("backbone.", "teacher_backbone."), "teacher_backbone."),
        (("student_backbone.", "teacher_backbone."), "teacher_backbone."),
        (("backbone.", "backbone_ema."), "backbone_ema."),
        (("student_backbone.", "model."), "model."),
    ],
)
def test_of_several_networks_the_first_in_the_order_is_taken(prefixes, taken):
    found = find_names(state(NAMES["torchvision"], *prefixes), known)
    assert found is not None and found.prefix == taken and set(found.others) == set(prefixes) - {taken}


def test_what_is_like_a_network_inside_of_one_is_part_of_it():
    """`visual.` and the like: only what is called an average, a teacher or a student is another one."""
    found = find_names(state(NAMES["torchvision"], "", "decoder."), known)
    assert found is not None and found.prefix == "" and found.others == []
    schema = find_names(state(NAMES["torchvision"], "model.", "schema."), known)  # no "ema"
    assert schema is not None and schema.prefix == "model."


def test_of_two_that_no_order_decides_between_none_is_taken():
    both = state(NAMES["torchvision"], "left.", "right.")
    with pytest.raises(Unclear, match=r"'left\.', 'right\.'"):
        find_names(both, known)
    found = find_names(both, known, "right")
    assert found is not None and found.prefix == "right."
    assert find_names(state(["a.b", "c.d"], ""), known) is None


def test_heads_are_known_by_their_first_word():
    assert heads_among(["fc.0.weight", "fc2.weight", "projector.1.bias", "layer1.fc.weight", "queue"]) == {
        *("fc.0.weight", "projector.1.bias", "queue")
    }
    assert grouped(["fc.0.weight", "queue", "fc.0.bias"]) == "fc (2), queue"
