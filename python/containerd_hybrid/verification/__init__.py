"""Image verifiers: programs of the administrator's that say which images may be pulled."""
