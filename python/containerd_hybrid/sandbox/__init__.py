"""Sandboxes: groups of containers that share namespaces, such as pods."""
