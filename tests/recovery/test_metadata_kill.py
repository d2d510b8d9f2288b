"""A process that writes metadata is killed at any moment: what it acknowledged is there, and all of it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.errors import DataLossError
from containerd_hybrid.metadata.database import SqliteDatabase

_PRELUDE = """
import asyncio, os, sys
from pathlib import Path
from containerd_hybrid.containers.api import Container
from containerd_hybrid.content.local import LocalBlobStore
from containerd_hybrid.images.api import Image
from containerd_hybrid.metadata.containers import MetadataContainerStore
from containerd_hybrid.metadata.content import MetadataContentStore
from containerd_hybrid.metadata.database import SqliteDatabase
from containerd_hybrid.metadata.gc import MetadataCollector
from containerd_hybrid.metadata.images import MetadataImageStore
from containerd_hybrid.metadata.leases import MetadataLeaseManager
from containerd_hybrid.metadata.locks import BlobLocks
from containerd_hybrid.model import Descriptor, Digest, Scope
from containerd_hybrid.model.any import AnyValue

class Silent:
    def publish(self, namespace, event): pass

root, salt = Path(sys.argv[1]), sys.argv[2]
scope = Scope("default")

def acknowledge(*words):
    # One write, so that the line is whole or missing.
    os.write(1, (" ".join(words) + "\\n").encode())
"""

_RECORDS = (
    _PRELUDE
    + """
async def images(store, task):
    for number in range(1_000_000):
        name = f"{salt}-{task}-{number}"
        await store.create(scope, Image(name, Descriptor("m", Digest.of(name.encode()), 1)))
        acknowledge("image", name)
        if number % 3 == 0:
            await store.delete(scope, name)
            acknowledge("image-gone", name)

async def containers(store, task):
    for number in range(1_000_000):
        name = f"{salt}-{task}-{number}"
        labels = {"containerd.io/gc.ref.content": f"sha256:{name}"}
        container = Container(name, runtime_name="r", spec=AnyValue("s", bytes(20_000)), labels=labels)
        await store.create(scope, container)
        acknowledge("container", name)
        await store.update(scope, Container(name, labels={"v": "2"}), ["labels"])
        acknowledge("updated", name)

async def main():
    async with SqliteDatabase(root / "meta.db") as database:
        acknowledge("ready")
        image_store = MetadataImageStore(database, Silent())
        container_store = MetadataContainerStore(database, Silent())
        await asyncio.gather(*(images(image_store, i) for i in range(6)),
                             *(containers(container_store, i) for i in range(6)))
asyncio.run(main())
"""
)

_CONTENT = (
    _PRELUDE
    + """
async def blobs(store, leases, task):
    for number in range(1_000_000):
        # Few names, so that a blob comes and goes while the collector is at it.
        data = f"blob {number % 7}".encode() * 100
        ingest = await store.open_ingest(scope, f"{salt}-{task}-{number}")
        await ingest.write(data)
        digest = Digest.of(data)
        try:
            await ingest.commit(len(data), digest, {"containerd.io/gc.root": "1"})
        except Exception as error:
            if "already exists" not in str(error):
                raise
        acknowledge("blob", str(digest))
        if number % 2:
            try:
                await store.delete(scope, digest)
            except Exception as error:
                if "not found" not in str(error):
                    raise

async def collect(collector):
    while True:
        await collector.collect()
        await asyncio.sleep(0)

async def main():
    async with SqliteDatabase(root / "meta.db") as database:
        blob_store, locks = LocalBlobStore(root / "content", sync=False), BlobLocks()
        store = MetadataContentStore(database, blob_store, locks, Silent())
        collector = MetadataCollector(database, Silent(), blob_store, locks, {})
        acknowledge("ready")
        await asyncio.gather(collect(collector), *(blobs(store, None, i) for i in range(4)))
asyncio.run(main())
"""
)


def run_and_kill(script: str, root: Path, salt: str, when: Callable[[int], bool]) -> list[list[str]]:
    """Start the script, kill it when ``when`` says so of the number of acknowledged writes; all it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(root), salt], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[list[str]] = []
    try:
        for line in process.stdout:
            if line.endswith(b"\n"):
                said.append(line.decode().split())
            if process.poll() is None and when(len(said)):
                process.send_signal(signal.SIGKILL)
        process.wait()
        errors = process.stderr.read().decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == -signal.SIGKILL, errors
    return said


async def rows(database: SqliteDatabase, query: str) -> set[str]:
    return await database.read(lambda connection: {row[0] for row in connection.execute(query)})


async def test_every_acknowledged_record_survives(tmp_path: Path) -> None:
    chance = random.Random(7)
    images: set[str] = set()
    gone: set[str] = set()
    containers: set[str] = set()
    updated: set[str] = set()
    for salt in range(6):
        wanted = chance.randint(1, 400)
        said = await asyncio.to_thread(
            run_and_kill, _RECORDS, tmp_path, str(salt), lambda count, wanted=wanted: count > wanted
        )
        assert ["ready"] in said
        for kind, name in (words for words in said if len(words) == 2):
            {"image": images, "image-gone": gone, "container": containers, "updated": updated}[kind].add(name)
        async with SqliteDatabase(tmp_path / "meta.db") as database:
            assert await database.check() == []
            present = await rows(database, "SELECT name FROM images")
            # Deleted ones whose deletion was not acknowledged may be either.
            assert {name for name in images - present if not deletable(name)} == set()
            assert present & gone == set()
            assert containers <= await rows(database, "SELECT id FROM containers")
            current = await rows(database, 'SELECT id FROM containers WHERE labels = \'{"v":"2"}\'')
            assert updated <= current
            # A record and its part of the graph came together or not at all.
            assert await rows(database, "SELECT from_key FROM refs WHERE from_type = 'images'") == present
            labelled = await rows(database, "SELECT from_key FROM refs WHERE from_type = 'containers'")
            assert labelled == await rows(database, "SELECT id FROM containers") - current
    assert images
    assert containers


def deletable(name: str) -> bool:
    """Whether the writer deletes this image after it made it."""
    return int(name.rpartition("-")[2]) % 3 == 0


async def test_no_record_is_without_its_bytes(tmp_path: Path) -> None:
    chance = random.Random(11)
    for salt in range(6):
        wanted = chance.randint(20, 300)
        await asyncio.to_thread(
            run_and_kill, _CONTENT, tmp_path, str(salt), lambda count, wanted=wanted: count > wanted
        )
        blobs = LocalBlobStore(tmp_path / "content", sync=False)
        async with SqliteDatabase(tmp_path / "meta.db") as database:
            assert await database.check() == []
            recorded = await rows(database, "SELECT digest FROM content")
            on_disk = {str(stat.digest) for stat in blobs.walk()}
            assert recorded <= on_disk


async def test_damage_is_found_when_the_last_run_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    async with SqliteDatabase(path) as database:
        await database.write(
            lambda tx: tx.connection.executemany(
                "INSERT INTO namespaces VALUES (?, ?, 1, 1)", [(f"n{n}", "x" * 3000) for n in range(200)]
            )
        )
    await asyncio.to_thread(run_and_kill, _RECORDS, tmp_path, "x", lambda count: count > 20)
    assert path.with_name("meta.db-wal").stat().st_size > 0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for page in range(40, size // 4096, 2):
            file.seek(page * 4096)
            file.write(bytes(100))
    with pytest.raises(DataLossError, match=r"meta\.db is damaged"):
        await SqliteDatabase(path).open()


async def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    said = await asyncio.to_thread(run_and_kill, _RECORDS, tmp_path, "x", lambda count: count > 5)
    assert ["ready"] in said  # it had the file, and so the lock
    made = {words[1] for words in said if words[0] == "container"}
    async with SqliteDatabase(tmp_path / "meta.db") as database:
        assert made <= await rows(database, "SELECT id FROM containers")
