"""Names of parts: which are refused, where they are listed, and what is said of one that fails, with its line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sret_jax
from sret_jax.config import ModelConfig, TrainConfig
from sret_jax.config.validation import validate
from sret_jax.errors import UserError
from sret_jax.evaluation.request import Request, check_benchmark
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import check_methods
from sret_jax.models.descriptor import POOLINGS, SMOOTHINGS
from sret_jax.parts.registry import _PLACES
from sret_jax.reranking.answers import Candidates, Context
from sret_jax.reranking.chain import parse_rerankers
from sret_jax.reranking.rerankers import RERANKERS
from sret_jax.training.losses import LOSSES, batch_loss, init_loss, init_loss_state
from tests.support.own_parts import forgotten, small_config, use_examples, write_parts


@pytest.fixture(autouse=True)
def registered():
    with forgotten():
        yield


@pytest.mark.parametrize(("kind", "name"), [(kind, next(iter(known))) for kind, (known, _) in _PLACES.items()])
def test_a_name_that_comes_with_the_package_is_taken(tmp_path, kind, name):
    with pytest.raises(UserError, match=rf"own\.py:\d+: {kind} {name!r} comes with sret_jax; choose another name"):
        write_parts(tmp_path / "own.py", f"@sret_jax.register({kind!r}, {name!r})\ndef part(*given): pass\n")


def test_a_name_of_another_file_is_taken_and_the_same_file_may_be_read_again(tmp_path):
    text = "@sret_jax.register('loss', 'mine')\ndef part(x, labels): return x.sum()\n"
    write_parts(tmp_path / "own.py", text)
    write_parts(tmp_path / "own.py", text)
    with pytest.raises(UserError, match=r"other\.py:7: loss 'mine' is there already, of own\.py:7"):
        write_parts(tmp_path / "other.py", text)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("@sret_jax.register('poolin', 'x')\ndef part(): pass", "no kind 'poolin'; did you mean 'pooling'"),
        ("@sret_jax.register('pooling', 'a:b')\ndef part(): pass", "a name has letters, digits"),
        ("sret_jax.register('pooling', 'x')(lambda x, mask: x)", "defined at the top of a file|defines no"),
        ("sret_jax.register('pooling', 'x')(sum)", "defined at the top of a file"),
        (
            "def outer():\n    def part(): pass\n    return part\nsret_jax.register('pooling', 'x')(outer())",
            "at the top of a file",
        ),
        ("@sret_jax.register('backbone', 'x')\nclass Part(nn.Module): pass", r"own.py:7: backbone 'x' .*`stages`"),
    ],
)
def test_what_cannot_be_a_part_is_said(tmp_path, code, says):
    with pytest.raises(UserError, match=says):
        write_parts(tmp_path / "own.py", code + "\n")


LITE = "efficientnet_lite0"


def test_names_are_among_the_choices():
    use_examples("pooling", "refinement", "loss", "reranker", "localizer", "benchmark")
    for message, call in {
        "rmac, superglobal, .*attention, strongest": lambda: validate(
            small_config("", model={"backbone": LITE, "pool": "max"})
        ),
        "contrastive, .*proxies": lambda: validate(small_config("", model={"backbone": LITE}, loss="proxy_")),
        "hypergraph, mutual": lambda: parse_rerankers(["x"]),
        "everything, .*strong": lambda: check_methods(["x"]),
        "synthetic, .*first": lambda: check_benchmark("x", Request()),
    }.items():
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"strongst": {"share": 1}}, "config.model.parts: 'strongst' is not used by this config; did you mean"),
        ({"strongest": {"share": jnp.ones(2)}}, "config.model.parts={'strongest': .*numbers, words, lists"),
    ],
)
def test_arguments_of_nothing_or_that_are_not_plain_are_refused(parts, says):
    use_examples("pooling")
    with pytest.raises(UserError, match=says):
        validate(small_config("", model={"backbone": "efficientnet_lite0", "pool": "strongest", "parts": parts}))


def apply(module):
    x, mask = jnp.ones((2, 3, 3, 4)), jnp.ones((2, 3, 3), bool)
    return module.apply(module.init(jax.random.key(0), x, mask), x, mask)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    y = x.mean((1, 2))\n    return y.reshape(3, 5)", r"own\.py:9: pooling 'mine': TypeError: .*reshape"),
        ("    return x", r"own\.py:7: pooling 'mine' gave float32 \[2, 3, 3, 4\], not a vector"),
        ("    return x.mean()", r"own\.py:7: .*gave float32 \[\], not"),
        ("    pass", r"own\.py:7: pooling 'mine' gave NoneType"),
        ("    return x.sum((1, 2)) > 0", r"own\.py:7: .*gave bool \[2, 4\]"),
        ("    return missing", r"own\.py:8: pooling 'mine': NameError: name 'missing'"),
    ],
)
def test_a_pooling_that_fails_is_said_with_its_line(tmp_path, body, says):
    write_parts(tmp_path / "own.py", f"@sret_jax.register('pooling', 'mine')\ndef part(x, mask):\n{body}\n")
    with pytest.raises(UserError, match=says):
        apply(POOLINGS["mine"](ModelConfig(pool="mine")))


def test_arguments_that_a_part_does_not_take_are_said_with_its_line():
    use_examples("pooling", "refinement")
    with pytest.raises(UserError, match=r"pooling\.py:10: pooling 'strongest': TypeError: .*'shape'"):
        apply(POOLINGS["strongest"](ModelConfig(pool="strongest", parts={"strongest": {"shape": 1}})))
    with pytest.raises(UserError, match=r"refinement\.py:10: smoothing 'blend': TypeError: .*'size'"):
        apply(SMOOTHINGS["blend"](ModelConfig(parts={"blend": {"size": 1}})))


def test_a_smoothing_of_another_shape_is_said(tmp_path):
    write_parts(tmp_path / "own.py", "@sret_jax.register('smoothing', 'mine')\ndef part(x, mask): return x[:, 1:]\n")
    with pytest.raises(UserError, match=r"own\.py:7: smoothing 'mine' gave float32 \[2, 2, 3, 4\], not a map like"):
        apply(SMOOTHINGS["mine"](ModelConfig()))


MEMORY = """
@sret_jax.register("loss", "mine")
class Part(nn.Module):
    classes: int
    @nn.compact
    def __call__(self, x, labels):
        mean = self.variable("memory", "mean", jnp.zeros, (self.classes,))
        mean.value = mean.value + 1
        return (x.sum() * self.param("w", nn.initializers.ones, (self.classes,)).sum() + mean.value.sum())
"""


def test_a_loss_has_parameters_and_goes_on_from_what_it_remembers(tmp_path):
    write_parts(tmp_path / "own.py", MEMORY)
    given = TrainConfig(loss="mine"), 3, 2, jax.random.key(0)
    params, memory = init_loss(*given), init_loss_state(*given)
    x, labels = jnp.ones((2, 2)) / 2, jnp.arange(2)
    found, memory = batch_loss(given[0], params, memory, x, labels)
    assert found == 2 * 3 + 2 * 3  # initialising has called it once, too
    again, _ = jax.jit(lambda memory: batch_loss(given[0], params, memory, x, labels))(memory)
    assert again == 2 * 3 + 3 * 3


@pytest.mark.parametrize("value", ["x", "labels.sum()", "1.0"])
def test_a_loss_that_is_not_one_number_is_said(tmp_path, value):
    write_parts(tmp_path / "own.py", f"@sret_jax.register('loss', 'mine')\ndef part(x, labels): return {value}\n")
    with pytest.raises(UserError, match=r"own\.py:7: loss 'mine' gave .*, not one number"):
        batch_loss(TrainConfig(loss="mine"), {}, {}, jnp.ones((2, 2)), jnp.arange(2))
    assert LOSSES["mine"].memory(TrainConfig(loss="mine"), 1, 1, jax.random.key(0)) == {}


def reranked(tmp_path, expression):
    text = f"@sret_jax.register('reranker', 'mine')\ndef part(number, context):\n    return lambda c: {expression}\n"
    write_parts(tmp_path / "own.py", "from dataclasses import replace\n" + text)
    context = object.__new__(Context)  # of which a re-ranker like these reads the config
    object.__setattr__(context, "config", small_config(""))
    ids = np.array([[2, 0, 1], [1, -1, -1]])
    given = Candidates(np.arange(2), np.ones((2, 4)), np.ones((3, 4)), ids, ids.astype(float), np.full(2, np.nan))
    return RERANKERS["mine"].make(3, context)(given)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("c.ids", r"own\.py:8: reranker 'mine' gave ndarray, not Candidates"),
        (
            "replace(c, ids=c.ids[:, :2], scores=c.scores[:, :2])",
            r"gave ids \[2, 2\] and scores \[2, 2\], not \[2, 3\]",
        ),
        ("replace(c, ids=c.ids * 0)", "gave other photographs than it got"),
        ("(c.ids.fill(0), c)[1]", "gave other photographs than it got"),  # in place
        ("replace(c, scores=c.scores * np.nan)", "gave a score that is not a number, for query 0"),
        ("c.nothing", r"own\.py:9: reranker 'mine': AttributeError: .*nothing"),
    ],
)
def test_a_reranker_changes_the_order_and_nothing_else(tmp_path, expression, says):
    with pytest.raises(UserError, match=says):
        reranked(tmp_path, expression)


def test_a_reranker_that_does_its_work_is_let_through(tmp_path):
    found = reranked(tmp_path, "replace(c, ids=c.ids[:, ::-1])")
    np.testing.assert_array_equal(found.ids, [[1, 0, 2], [-1, -1, 1]])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("None", "gave NoneType, not a Lookup, a PhotoSet or a Benchmark"),
        ("1 / 0", r"own\.py:8: benchmark 'mine': ZeroDivisionError"),
        ("Lookup(p, p.select([0]), [np.array([11])], [''], 0)", r"row 11 among the right answers of 'bridge/0.png'"),
        ("Lookup(p, p.select([0]), [], [''], 0)", r"gave 0 lists of right answers and 1 groups for 1 queries"),
    ],
)
def test_a_benchmark_that_is_none_is_said(tmp_path, value, says):
    text = f"@sret_jax.register('benchmark', 'mine')\ndef part(root, cache):\n    p = photo_set(); return {value}\n"
    imports = "from sret_jax.datasets.lookups import Lookup; from tests.support.photos import photo_set\n"
    write_parts(tmp_path / "own.py", text.replace("):\n", f"):\n    {imports}", 1).replace("return", "\n    return"))
    with pytest.raises(UserError, match=says.replace(":8:", r":\d+:")):
        sret_jax.open_benchmark("mine")


def test_photographs_with_instances_are_a_benchmark(tmp_path):
    text = "from tests.support.photos import photo_set\n@sret_jax.register('benchmark', 'mine')\n"
    write_parts(tmp_path / "own.py", text + "def part(root, cache, n=4): return photo_set(n)\n")
    benchmark = sret_jax.open_benchmark("mine")
    assert benchmark.name == "mine" and benchmark.queries is None and len(benchmark.scorer().queries) == 4


class Searched(Localizer):
    """What a method of localization is given, as far as the check of its masks needs it."""

    def __init__(self):
        pass

    config = small_config("")
    photos = type("Photos", (), {"names": ["a", "b"]})

    def size(self, row):
        return 4, 6


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[np.ones((4, 6), bool)]", r"own\.py:7: localizer 'mine' gave 1 masks for 2 photographs"),
        (
            "[np.ones((4, 6), bool), np.ones((6, 4), bool)]",
            r"gave bool \[6, 4\] as the mask of b, not a bool array of numpy, \[4, 6\]",
        ),
        ("[np.ones((4, 6))] * 2", r"gave float64 \[4, 6\] as the mask of a, not a bool"),
        ("rows.x", r"own\.py:7: localizer 'mine': AttributeError"),
    ],
)
def test_a_method_of_localization_gives_a_mask_of_each(tmp_path, value, says, monkeypatch):
    write_parts(
        tmp_path / "own.py",
        f"@sret_jax.register('localizer', 'mine')\ndef part(localizer, query, rows): return {value}\n",
    )
    with pytest.raises(UserError, match=says):
        _PLACES["localizer"][0]["mine"](Searched(), 0, [0, 1])
