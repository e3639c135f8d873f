"""The one exception for a user's mistake: the command line prints it as one line and ends with exit code 2."""


class UserError(Exception):
    """Says the value, the place, the reason and the remedy."""


class SaidElsewhere(UserError):
    """A mistake that another rank prints: this one ends with the same exit code, silently."""
