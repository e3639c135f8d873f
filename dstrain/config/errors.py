"""What the command line prints as one line, and the exit code that goes with it."""


class UserError(Exception):
    """A user's mistake (exit code 2). Says the value, the place, the reason and the remedy."""


class SaidElsewhere(UserError):
    """A mistake that another rank prints: this one ends with the same exit code, silently."""


class Trouble(Exception):
    """Something outside broke, such as a disk (exit code 1). Says what, where and the remedy; no traceback helps."""


class TroubleElsewhere(Trouble):
    """Trouble that another rank prints."""


class FailedElsewhere(RuntimeError):
    """An error of another rank, which prints its traceback."""


class LostRank(Exception):
    """Another rank is gone: nothing that this one's traceback would explain (1)."""


class Left(Exception):
    """The run left because it was asked to (75): the same command goes on."""
