"""What the command line prints as one line: a user's mistake (exit code 2), or a rank that was lost (1)."""


class UserError(Exception):
    """Says the value, the place, the reason and the remedy."""


class SaidElsewhere(UserError):
    """A mistake that another rank prints: this one ends with the same exit code, silently."""


class LostRank(Exception):
    """Another rank is gone: nothing that this one's traceback would explain."""
