class DataError(ValueError):
    """A fault in the user's data or in how it was named: one line that says where and what would work."""
