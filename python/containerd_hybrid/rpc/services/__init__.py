"""One gRPC service a file: thin handlers that translate messages and call one package's API.

Each class names its ``descriptor``; ``rpc.describe.service_from`` makes the method table from it.
"""
