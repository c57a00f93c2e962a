"""What lies in files: a pruned network as small as it gets, and the forms in which others take it."""

__all__ = ()
