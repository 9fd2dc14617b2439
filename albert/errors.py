class ModelError(ValueError):
    """A fault in a configuration or checkpoint the user named: one line that says where and what would work."""
