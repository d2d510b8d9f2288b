"""The gRPC server of the daemon: connections are asyncio's, their protocol is in Rust (the crate ``front``).

Bytes that arrive go through ``_native.FrontConnection``, which answers with events; a call is one
task; what it sends is collected and written once a turn of the loop.
"""
