"""The one exception for bad input: its text names the thing and the remedy."""


class UserError(Exception):
    """Bad use or bad input. `train.py` and `eval.py` print its text as one line and exit with 2."""
