class RunError(ValueError):
    """A fault in how a run was asked for or in its folder: one line that says where and what would work."""


class Diverged(RunError):
    """The loss is not finite any more, which all processes find at once."""
