"""For which platform a network is traced."""

import jax

from sret_jax.models.platform import on_cpu, traced_for


def test_what_is_traced_for_another_platform_is_traced_as_there():
    assert on_cpu()
    with traced_for("tpu"):
        assert not on_cpu()
        with traced_for("cpu"):
            assert on_cpu()
        assert not on_cpu()
    assert on_cpu()


def test_an_error_inside_ends_it_too():
    try:
        with traced_for("cuda"):
            raise KeyError
    except KeyError:
        pass
    assert on_cpu() == (jax.default_backend() == "cpu")
