"""Traces for OpenTelemetry collectors: spans of calls, registry requests, unpacking and shims."""
