"""A service's table comes from its descriptor, and what is missing is named at the start."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from tests.unit.rpc import echo

from containerd_hybrid.errors import InternalError
from containerd_hybrid.rpc.api import Kind
from containerd_hybrid.rpc.describe import handler_name, service_from


@pytest.mark.parametrize(
    ("method", "handler"),
    [
        ("Get", "get"),
        ("ListStreams", "list_streams"),
        ("CloseIO", "close_io"),
        ("ResizePty", "resize_pty"),
        ("GetHTTPProxy", "get_http_proxy"),
        ("ImageFsInfo", "image_fs_info"),
        ("Import", "import_"),
    ],
)
def test_handler_names(method: str, handler: str) -> None:
    assert handler_name(method) == handler


def test_every_kind_and_class_is_the_descriptors() -> None:
    service = service_from(echo.descriptor(), echo.Echo())
    assert service.name == echo.NAME
    assert {name: method.kind for name, method in service.methods.items()} == {
        "Once": Kind.UNARY,
        "CountDown": Kind.SERVER_STREAM,
        "JoinAll": Kind.CLIENT_STREAM,
        "Each": Kind.BIDI_STREAM,
    }
    assert all(m.request is StringValue and m.response is StringValue for m in service.methods.values())


def test_faulty_handlers_are_all_named() -> None:
    class Half:
        async def once(self) -> None: ...

        async def count_down(self) -> None: ...

        def join_all(self) -> None: ...

    with pytest.raises(InternalError) as caught:
        service_from(echo.descriptor(), Half())
    assert caught.value.message == (
        f"Half cannot serve {echo.NAME}: count_down (CountDown) must be an async generator, "
        "join_all (JoinAll) must be an async function, each (Each) is missing"
    )
