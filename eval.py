"""The same as `sret eval`, from a checkout: `python eval.py --help`."""

from sret_jax.cli import command

if __name__ == "__main__":
    command.run("eval")
