"""grpc.reflection.v1.ServerReflection, and the same under its older name v1alpha

Clients such as grpcurl ask for the services and for the files that describe them. A descriptor is either
in protobuf's default pool or in our private one (``containerd_hybrid.proto``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, cast

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor

from containerd_hybrid.errors import InvalidArgumentError, NotFoundError
from containerd_hybrid.proto import PRIVATE_POOL
from containerd_hybrid.proto.grpc.reflection.v1 import reflection_pb2 as pb
from containerd_hybrid.rpc.api import CallContext, Kind, Method, Service

_V1 = "grpc.reflection.v1"
_V1ALPHA = "grpc.reflection.v1alpha"
_SERVICE = "ServerReflection"
_NOT_FOUND = 5


def reflecting(services: Iterable[Service]) -> list[Service]:
    """The services, and those by which a client asks about them."""
    served = list(services)
    _define_v1alpha()
    names = (f"{_V1}.{_SERVICE}", f"{_V1ALPHA}.{_SERVICE}")
    reflection = Reflection([*(service.name for service in served), *names])
    method = Method(
        "ServerReflectionInfo",
        pb.ServerReflectionRequest,
        pb.ServerReflectionResponse,
        Kind.BIDI_STREAM,
        reflection.server_reflection_info,
    )
    return [*served, *(Service(name, {method.name: method}) for name in names)]


class Reflection:
    """Answers from the two pools; ``services`` are the full names to list."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._pools = (PRIVATE_POOL, descriptor_pool.Default())

    async def server_reflection_info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], call: CallContext
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """One answer to each question; a file that was sent on this stream is not sent again unasked."""
        sent: set[str] = set()
        async for request in requests:
            response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._answer(request, response, sent)
            except NotFoundError as error:
                response.error_response.error_code = _NOT_FOUND
                response.error_response.error_message = error.message
            yield response

    def _answer(
        self, request: pb.ServerReflectionRequest, response: pb.ServerReflectionResponse, sent: set[str]
    ) -> None:
        match request.WhichOneof("message_request"):
            case "file_by_filename":
                name = request.file_by_filename
                file = self._find(lambda pool: pool.FindFileByName(name), f"file {name}")
                response.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file, sent))
            case "file_containing_symbol":
                file = self._file_of(request.file_containing_symbol)
                response.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file, sent))
            case "file_containing_extension":
                file = self._file_of_extension(request.file_containing_extension)
                response.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file, sent))
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                numbers = self._extension_numbers(name)
                response.all_extension_numbers_response.base_type_name = name
                response.all_extension_numbers_response.extension_number.extend(numbers)
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            case _:
                raise InvalidArgumentError("a reflection request must ask for something")

    def _file_of(self, symbol: str) -> FileDescriptor:
        symbol = symbol.removeprefix(".")

        def find(pool: descriptor_pool.DescriptorPool) -> FileDescriptor:
            try:
                return pool.FindFileContainingSymbol(symbol)
            except KeyError:
                # Pools know what is in a file, but not all of them its fields and methods.
                return _file_of_member(pool, symbol)

        return self._find(find, f"symbol {symbol}")

    def _file_of_extension(self, extension: pb.ExtensionRequest) -> FileDescriptor:
        def find(pool: descriptor_pool.DescriptorPool) -> FileDescriptor:
            message = pool.FindMessageTypeByName(extension.containing_type)
            found: Any = pool.FindExtensionByNumber(message, extension.extension_number)
            return cast(FileDescriptor, found.file)

        return self._find(find, f"extension {extension.extension_number} of {extension.containing_type}")

    def _extension_numbers(self, name: str) -> list[int]:
        found: set[int] = set()
        known = False
        for pool in self._pools:
            try:
                message = pool.FindMessageTypeByName(name)
            except KeyError:
                continue
            known = True
            found |= {extension.number for extension in pool.FindAllExtensions(message)}
        if not known:
            raise NotFoundError(f"message {name} not found")
        return sorted(found)

    def _find(
        self, find: Callable[[descriptor_pool.DescriptorPool], FileDescriptor], what: str
    ) -> FileDescriptor:
        for pool in self._pools:
            try:
                return find(pool)
            except KeyError:
                continue
        raise NotFoundError(f"{what} not found")


def _file_of_member(pool: descriptor_pool.DescriptorPool, symbol: str) -> FileDescriptor:
    parent, _, name = symbol.rpartition(".")
    file = pool.FindFileContainingSymbol(parent)
    members = []
    service = file.services_by_name.get(parent.rpartition(".")[2])
    if service is not None and service.full_name == parent:
        members = [method.name for method in service.methods]
    else:
        message = pool.FindMessageTypeByName(parent)
        members = [field.name for field in message.fields]
    if name not in members:
        raise KeyError(symbol)
    return file


def _with_imports(file: FileDescriptor, sent: set[str]) -> list[bytes]:
    """The file asked for, and what it imports as far as the client does not have it."""
    found: dict[str, bytes] = {}
    queue = [file]
    while queue:
        one = queue.pop(0)
        if one.name in found or (found and one.name in sent):
            continue
        found[one.name] = one.serialized_pb
        queue.extend(one.dependencies)
    sent.update(found)
    return list(found.values())


def _define_v1alpha() -> None:
    """Put the older name's descriptors, which differ in nothing else, beside those of v1."""
    name = pb.DESCRIPTOR.name.replace("/v1/", "/v1alpha/")
    try:
        PRIVATE_POOL.FindFileByName(name)
        return
    except KeyError:
        pass
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = name, _V1ALPHA
    for message in file.message_type:
        for field in message.field:
            if not field.type_name:
                continue  # an empty name would be one, too
            field.type_name = field.type_name.replace(f".{_V1}.", f".{_V1ALPHA}.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(f".{_V1}.", f".{_V1ALPHA}.")
            method.output_type = method.output_type.replace(f".{_V1}.", f".{_V1ALPHA}.")
    PRIVATE_POOL.Add(file)
