"""Configs as plain values and back, and what they mean that were written by an earlier version."""

import json

import pytest

from sret_jax.config import Config, RefinementConfig, from_dict, to_dict
from sret_jax.errors import UserError


def test_a_config_comes_back_from_its_plain_values():
    config = Config(seed=3)
    config.model.refinement = RefinementConfig(enabled=True, form="free", nodes=7)
    config.data.map_scale, config.train.on_maps, config.whitening.kind = (0.5, 1.0), True, "within"
    for one in (config, Config()):
        assert from_dict(json.loads(json.dumps(to_dict(one)))) == one


def test_refinement_was_free_before_there_was_a_choice():
    assert (RefinementConfig().form, RefinementConfig().nodes) == ("span", 48)
    earlier = {"model": {"refinement": {"enabled": True, "nodes": 32, "width": 256}}}
    found = from_dict(earlier).model.refinement
    assert found == RefinementConfig(enabled=True, form="free", nodes=32)
    earlier["model"]["refinement"]["form"] = "span"
    assert from_dict(earlier).model.refinement == RefinementConfig(enabled=True, nodes=32)
    assert earlier["model"]["refinement"] == {"enabled": True, "nodes": 32, "width": 256, "form": "span"}
    without = {"model": {"refinement": {"enabled": False, "nodes": 32}}}  # which it is cannot matter
    assert from_dict(without).model.refinement == RefinementConfig()
    assert from_dict({"model": {"stage": "c4"}}).model.refinement == RefinementConfig()  # nothing was written of it


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sed": 1}, "unknown field 'sed' in Config; known: seed, data"),
        ({"model": {"refinement": {"knots": 3}}}, "unknown field 'knots' in RefinementConfig; known: enabled, form"),
    ],
)
def test_unknown_fields_are_named(values, text):
    with pytest.raises(UserError, match=text):
        from_dict(values)
