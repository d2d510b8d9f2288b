"""Blocking work of plug-ins while they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``asyncio.to_thread``, imported when it is needed: printing a configuration needs no event loop."""
    import asyncio

    return await asyncio.to_thread(work, *args, **kwargs)
