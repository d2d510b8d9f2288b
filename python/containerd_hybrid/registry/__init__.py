"""Registries: hosts, authorisation, transport, and the calls of the distribution spec."""
