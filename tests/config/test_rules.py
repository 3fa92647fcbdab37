"""Rules of fields: every field has one, and it says the same to whoever sets the field or reads about it."""

import dataclasses
import importlib
import json
import pkgutil
from dataclasses import dataclass
from typing import Annotated

import pytest

import sret_jax.config
from sret_jax.config import Config, from_dict, names, to_dict
from sret_jax.config.reference import fields, help_text, markdown
from sret_jax.config.rules import Between, Count, OneOf, Text, check, read_text, rule_at, ruled, rules_of, shown
from sret_jax.config.validation import check_values, validate
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import OPENERS
from sret_jax.localization.methods import METHODS
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.descriptor import POOLINGS
from sret_jax.reranking.rerankers import RERANKERS
from sret_jax.retrieval.servers import SERVERS


def test_every_class_of_settings_has_rules_of_every_field():
    modules = [
        importlib.import_module(f"sret_jax.config.{one.name}") for one in pkgutil.iter_modules(sret_jax.config.__path__)
    ]
    classes = {
        value
        for module in modules
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value) and name.endswith("Config")
    }
    assert len(classes) == 17
    for cls in classes:
        sections = {field.name for field in dataclasses.fields(cls) if dataclasses.is_dataclass(field.type)}
        assert set(rules_of(cls)) | sections == {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize(
    ("hint", "default"),
    [(int, 1), (float, 1.0), (str, ""), (dict[str, str], None), (tuple[float, ...], ()), (list[int], None)]
    + [
        (Annotated[tuple[float, ...], Between(0, 1)], ()),
        (Annotated[int, Text()], 1),
        (Annotated[str, Between(0, 1)], ""),
    ],
)
def test_a_field_without_a_rule_cannot_be_written(hint, default):
    cls = dataclasses.make_dataclass("OwnConfig", [("new", hint, default)])
    with pytest.raises(TypeError, match="OwnConfig.new: no rule"):
        ruled(cls)


@ruled
@dataclass
class Small:
    share: Annotated[float, Between(0, 1, below=True)] = 0.5
    size: Annotated[int, Between(8, 64, "pixels", zero=True)] = 0  # of what is shown
    # Two of
    # them.
    pair: Annotated[tuple[int, int], Between(1, 9), Count(2, 2, ascending=True)] = (1, 3)
    kinds: Annotated[tuple[str, ...], OneOf("a", "b", own="loss", added=":"), Count(0, 3)] = ()
    loud: bool = False


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("share", 1.0, "x.share=1.0: must be a number from 0 to below 1"),
        ("size", 7, "x.size=7: must be a whole number 0 or from 8 to 64 pixels"),
        ("size", True, "x.size=True: must be a whole number 0 or"),
        ("pair", (3, 1), "x.pair=(3, 1): must be a tuple of 2 whole numbers, each from 1 to 9, none less than"),
        ("pair", (0, 3), "x.pair=(0, 3): must be"),
        ("pair", [1, 3], "x.pair=[1, 3]: must be a tuple"),
        ("kinds", ("a", "b:0"), "x.kinds=('a', 'b:0'): 'b:0': choose one of a, b, each with :NUMBER or not"),
        ("loud", 1, "x.loud=1: must be True or False"),
        ("laud", 1, "x.laud: no field 'laud'; did you mean 'loud'"),
    ],
)
def test_an_error_has_the_name_the_value_and_what_may_be(field, value, says):
    settings = Small()
    setattr(settings, field, value)
    with pytest.raises(UserError) as raised:
        check(settings, "x.", lambda _: ())
    assert str(raised.value).startswith(says)


def test_names_of_ones_own_are_taken_where_they_are_not_known_yet():
    check(Small(kinds=("a:12", "b", "mine:3")), "x.")
    check(Small(kinds=("mine",)), "x.", lambda kind: {"loss": ("mine",)}[kind])
    with pytest.raises(UserError, match="choose one of a, b, mine"):
        check(Small(kinds=("other",)), "x.", lambda _: ("mine",))


def test_a_value_is_shown_on_one_line_whatever_it_is():
    itself = []
    itself.append(itself)
    for value in ("a\nb", 10**5000, itself, "x" * 10_000, float("nan")):
        assert len(shown(value)) <= 101 and "\n" not in shown(value)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.steps", "5", 5), ("train.steps", "0x10", 16), ("train.steps", "5.0", None),
        ("train.steps", "9" * 9999, None),
        ("data.flip", "1e-1", 0.1), ("data.flip", "a", None), ("model.whitening", "False", False),
        ("model.whitening", "maybe", None), ("extract.scales", "(1, 0.5)", (1, 0.5)), ("extract.scales", "2", (2,)),
        ("extract.scales", "(" * 9999, None), ("rerank.stages", "sv:100", ("sv:100",)), ("data.root", "A,B", "A,B"),
    ],
)  # fmt: skip
def test_text_is_read_as_the_type_of_the_field(path, text, value):
    assert read_text(text, rule_at(path, Config)) == value


def test_what_was_set_beside_the_fields_is_found():
    config = Config()
    config.train.stepz = 5
    with pytest.raises(UserError, match="config.train.stepz: no field 'stepz'; did you mean 'steps'"):
        check_values(config)
    for section in (None, {}, Small()):
        config = Config()
        config.train = section
        with pytest.raises(UserError, match="config.train=.*: must be a TrainConfig"):
            validate(config)


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("train", {"steps": "5"}, "config.train.steps='5': must be a whole number"),
        ("train", [], "config.train=.*must be the fields of a TrainConfig"),
        ("extract", {"scales": 1.0}, "config.extract.scales=1.0: must be a tuple"),
        ("model", {"smoothing": {"window": True}}, "config.model.smoothing.window=True: must be an odd whole number"),
    ],
)
def test_a_config_that_was_written_passes_the_same_rules(section, values, says):
    with pytest.raises(UserError, match=says):
        from_dict(json.loads(json.dumps(to_dict(Config()) | {section: values})))


def test_help_and_documentation_name_every_field_with_its_rule_and_comment():
    lines, page = help_text().splitlines(), markdown()
    joined = " ".join(" ".join(lines).split())
    found = {field.path: field for field in fields()}
    assert len(found) > 150
    for field in found.values():
        assert f"  --{field.path}={shown(field.default)}" in lines
        assert field.rule.says() in joined and field.rule.says() in page
    assert found["config.data.flip"].about == "probability of a horizontal flip"
    assert found["config.model.stage"].about.startswith("the map that is pooled")
    small = {field.path: field.about for field in fields(Small, "")}
    assert small["size"] == "of what is shown" and small["pair"] == "Two of them." and small["loud"] == ""


def test_the_names_that_can_be_chosen_are_those_of_what_is_built():
    stages = {stage for backbone in BACKBONES.values() for stage in backbone.stages}
    assert list(names.BACKBONES) == list(BACKBONES) and set(names.STAGES) == stages
    assert list(names.POOLINGS) == list(POOLINGS) and list(names.RERANKERS) == list(RERANKERS)
    assert list(names.METHODS) == list(METHODS) and set(names.BENCHMARKS) == set(OPENERS)
    assert list(names.SERVERS) == list(SERVERS)
