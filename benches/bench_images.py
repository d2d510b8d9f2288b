"""Images from a registry and from archives to a root file system, and how much memory that takes."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benches.conftest import Side, Versus, peak_memory
from benches.registry import BenchRegistry, Layer
from containerd_hybrid.model.descriptor import OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from containerd_hybrid.testing.images import add_file, add_folder, tar_of

_LAYERS, _LAYER_BYTES = 4, 64 << 20
_SOURCE = Path("/usr")


@pytest.fixture(scope="session")
def registry(disk: Path) -> Iterator[BenchRegistry]:
    with BenchRegistry(disk / "registry") as served:
        yield served


@pytest.fixture(scope="session")
def archives(disk: Path) -> list[Path]:
    """Layers of programs, libraries and texts of this machine, each about 64 MiB, uncompressed."""
    folder = disk / "layers"
    folder.mkdir()
    found = _files()
    return [_layer_of(found, folder / f"layer{number}.tar", number) for number in range(_LAYERS)]


def _files() -> Iterator[Path]:
    for path in sorted(_SOURCE.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 16 << 20:
            yield path


def _layer_of(files: Iterator[Path], target: Path, number: int) -> Path:
    folders: set[str] = set()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        while archive.offset < _LAYER_BYTES:
            file = next(files, None)
            if file is None:
                break
            name = f"layer{number}{file}"
            for above in list(Path(name).parents)[-2::-1]:
                if str(above) not in folders:
                    folders.add(str(above))
                    add_folder(archive, str(above))
            add_file(archive, name, file.read_bytes())
    return target


@pytest.fixture(scope="session")
def tiny(disk: Path) -> Path:
    """20,000 tiny files in one layer."""

    def fill(archive: tarfile.TarFile) -> None:
        for folder in range(200):
            add_folder(archive, f"d{folder}")
            for file in range(100):
                add_file(archive, f"d{folder}/f{file}", b"tiny %d\n" % file * 20)

    target = disk / "tiny.tar"
    target.write_bytes(tar_of(fill))
    return target


def gzipped(source: Path) -> Layer:
    target = source.with_suffix(".gz")
    if not target.exists():
        with source.open("rb") as plain, gzip.GzipFile(target, "wb", 6, mtime=0) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
    return Layer(OCI_LAYER_GZIP, target, _digest(source))


def zstd(source: Path) -> Layer:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("the program zstd is not installed")
    target = source.with_suffix(".zst")
    if not target.exists():
        subprocess.run([program, "-q", "-3", str(source), "-o", str(target)], check=True)
    return Layer(OCI_LAYER_ZSTD, target, _digest(source))


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def packed(sources: list[Path], pack: Callable[[Path], Layer]) -> list[Layer]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(pack, sources))


def pull(versus: Versus, name: str, image: str) -> None:
    for side in (versus.ours, versus.theirs):
        peak_memory(side.pid, reset=True)
    versus.time(
        name,
        lambda side: side.ctr("image", "pull", "--plain-http", image),
        rounds=5,
        reset=lambda side: side.ctr("image", "rm", "--sync", image),
    )
    versus.note(f"peak memory, {name}", "MiB", *(peak_memory(s.pid) for s in (versus.ours, versus.theirs)))


def test_pull_gzip(versus: Versus, registry: BenchRegistry, archives: list[Path]) -> None:
    image = registry.add("bench/gzip", packed(archives, gzipped))
    pull(versus, "pull+unpack gzip, 4 × 64 MiB", image)


def test_pull_one_gzip_layer(
    versus: Versus, registry: BenchRegistry, archives: list[Path], disk: Path
) -> None:
    one = disk / "one.tar"
    with tarfile.open(one, "w", format=tarfile.PAX_FORMAT) as joined:
        for part in archives:
            with tarfile.open(part) as archive:
                for entry in archive:
                    joined.addfile(entry, archive.extractfile(entry) if entry.isfile() else None)
    image = registry.add("bench/one", [gzipped(one)])
    pull(versus, "pull+unpack gzip, 1 × 256 MiB", image)


def test_pull_zstd(versus: Versus, registry: BenchRegistry, archives: list[Path]) -> None:
    image = registry.add("bench/zstd", packed(archives, zstd))
    pull(versus, "pull+unpack zstd, 4 × 64 MiB", image)


def test_pull_tiny(versus: Versus, registry: BenchRegistry, tiny: Path) -> None:
    image = registry.add("bench/tiny", [gzipped(tiny)])
    pull(versus, "pull+unpack gzip, 20,000 tiny files", image)


def test_import_gzip(versus: Versus, archives: list[Path], disk: Path) -> None:
    name = "example.com/bench/packed:1"
    archive = disk / "packed.tar"
    _write_layout(archive, name, packed(archives, gzipped))
    for side in (versus.ours, versus.theirs):
        peak_memory(side.pid, reset=True)
    versus.time(
        "import+unpack gzip, 4 × 64 MiB",
        lambda side: side.ctr("image", "import", str(archive)),
        rounds=5,
        reset=lambda side: side.ctr("image", "rm", "--sync", name),
    )
    versus.note("peak memory, import", "MiB", *(peak_memory(s.pid) for s in (versus.ours, versus.theirs)))


def test_export(versus: Versus, registry: BenchRegistry, archives: list[Path], disk: Path) -> None:
    image = registry.add("bench/gzip", packed(archives, gzipped))
    for side in (versus.ours, versus.theirs):
        side.ctr("image", "pull", "--plain-http", image)

    def export(side: Side) -> None:
        side.ctr("image", "export", str(disk / f"export-{side.name}.tar"), image)

    try:
        versus.time("export, 4 × 64 MiB gzip", export, rounds=5)
    finally:
        for side in (versus.ours, versus.theirs):
            side.ctr("image", "rm", "--sync", image)


def _write_layout(target: Path, name: str, layers: list[Layer]) -> None:
    served = BenchRegistry(target.with_suffix(".layout"))
    reference = served.add("bench/packed", layers)
    manifest = served._file(f"/v2/{reference.partition('/')[2].partition(':')[0]}/manifests/1")
    assert manifest is not None
    described = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{manifest.name}",
        "size": manifest.stat().st_size,
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "1"},
    }
    index = {"schemaVersion": 2, "manifests": [described]}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add_file(archive, "index.json", json.dumps(index).encode())
        for file in sorted(manifest.parent.iterdir()):
            info = tarfile.TarInfo(f"blobs/sha256/{file.name}")
            info.size = file.stat().st_size
            with file.open("rb") as opened:
                archive.addfile(info, opened)
