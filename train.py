"""The same as `sret train`, from a checkout: `python train.py --help`."""

from sret_jax.cli import command

if __name__ == "__main__":
    command.run("train")
