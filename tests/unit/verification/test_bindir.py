"""Programs that judge images: what they are told, what their answers mean, what bounds them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from containerd_hybrid.errors import UnknownError
from containerd_hybrid.model import Descriptor, Digest, Reference
from containerd_hybrid.registry.api import RegistryOptions
from containerd_hybrid.verification.api import Judgement
from containerd_hybrid.verification.bindir import BindirVerifier
from containerd_hybrid.verification.pulls import VerifiedRegistries

IMAGE = Descriptor("application/vnd.oci.image.index.v1+json", Digest.of(b"image"), 123)
NAME = "registry.example/a/b:1"


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def test_the_arguments_and_the_descriptor(tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    program(bin_dir, "v", f'echo "$@" > {tmp_path}/arguments; cat > {tmp_path}/stdin; echo " fine "')
    assert await BindirVerifier(bin_dir).verify(NAME, IMAGE) == Judgement(True, "v => fine")
    assert (tmp_path / "arguments").read_text().split() == [
        *("-name", NAME, "-digest", str(IMAGE.digest)),
        *("-stdin-media-type", "application/vnd.oci.descriptor.v1+json"),
    ]
    told = json.loads((tmp_path / "stdin").read_text())
    assert (told["mediaType"], told["digest"], told["size"]) == (IMAGE.media_type, str(IMAGE.digest), 123)


async def test_all_must_agree_and_the_first_no_is_told(tmp_path: Path) -> None:
    program(tmp_path, "a", "echo yes")
    program(tmp_path, "b", "echo not signed; exit 7")
    program(tmp_path, "c", f"touch {tmp_path}/../asked")
    assert await BindirVerifier(tmp_path).verify(NAME, IMAGE) == Judgement(
        False, "verifier b rejected image (exit code 7): not signed"
    )
    assert not (tmp_path.parent / "asked").exists()
    (tmp_path / "b").unlink()
    assert await BindirVerifier(tmp_path).verify(NAME, IMAGE) == Judgement(True, "a => yes, c => ")


async def test_no_folder_and_no_program_is_a_yes(tmp_path: Path) -> None:
    missing = await BindirVerifier(tmp_path / "none").verify(NAME, IMAGE)
    assert missing == Judgement(True, f"image verifier directory {tmp_path}/none does not exist")
    empty = await BindirVerifier(tmp_path).verify(NAME, IMAGE)
    assert empty == Judgement(True, f"no image verifier binaries found in {tmp_path}")


@pytest.mark.parametrize(("limit", "asked"), [(2, 2), (0, 0), (-1, 3), (9, 3)])
async def test_no_more_than_so_many_are_asked(tmp_path: Path, limit: int, asked: int) -> None:
    for name in "abc":
        program(tmp_path, name, "echo y")
    judgement = await BindirVerifier(tmp_path, max_verifiers=limit).verify(NAME, IMAGE)
    assert judgement == Judgement(True, ", ".join(f"{name} => y" for name in "abc"[:asked]))


async def test_one_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    program(bin_dir, "slow", f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; wait")
    with pytest.raises(UnknownError, match=r"failed to call verifier slow: it took longer than 0\.5s"):
        await BindirVerifier(bin_dir, timeout=0.5).verify(NAME, IMAGE)
    for file in ("child", "pid"):
        if (tmp_path / file).exists() and (said := (tmp_path / file).read_text()):
            await gone(int(said))  # a busy machine may not have come that far


async def gone(pid: int) -> None:
    """Wait until a process has ended; who reaps it does not matter."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            await asyncio.sleep(0.01)


async def test_a_cancelled_pull_ends_its_verifier(tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    program(bin_dir, "slow", f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000")
    task = asyncio.create_task(BindirVerifier(bin_dir, timeout=1000).verify(NAME, IMAGE))
    while not (tmp_path / "pid").exists():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int((tmp_path / "pid").read_text()))


async def test_much_output_is_cut_and_an_unread_question_is_no_fault(tmp_path: Path) -> None:
    program(tmp_path, "a", "exec <&-; head -c 1000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero >&2")
    image = Descriptor(IMAGE.media_type, IMAGE.digest, 1, annotations={"k": "v" * 500_000})
    judgement = await BindirVerifier(tmp_path, timeout=60).verify(NAME, image)
    assert judgement == Judgement(True, "a => " + "x" * 32768 + "(stdout truncated)")


async def test_what_cannot_be_run_blocks(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no program")
    with pytest.raises(UnknownError, match="failed to call verifier a: "):
        await BindirVerifier(tmp_path).verify(NAME, IMAGE)
    program(tmp_path, "a", "kill -9 $$")
    with pytest.raises(UnknownError, match="killed by a signal"):
        await BindirVerifier(tmp_path).verify(NAME, IMAGE)


class FakeRepository:
    """Resolves everything to one image."""

    async def resolve(self, reference: Reference) -> Descriptor:
        return IMAGE


class FakeRegistries:
    def repository(self, reference: Reference, options: RegistryOptions) -> FakeRepository:
        return FakeRepository()


class Says:
    def __init__(self, judgement: Judgement | None) -> None:
        self._judgement = judgement

    async def verify(self, name: str, image: Descriptor) -> Judgement:
        if self._judgement is None:
            raise UnknownError("the key server is away")
        return self._judgement


@pytest.mark.parametrize(
    ("judgement", "message"),
    [
        (Judgement(True, "signed"), ""),
        (
            Judgement(False, "old"),
            f"image verifier v blocked pull of {NAME} with digest {IMAGE.digest} for reason: old",
        ),
        (
            None,
            f"blocking pull of {NAME} with digest {IMAGE.digest}: image verifier v returned error: the",
        ),
    ],
)
async def test_a_name_is_resolved_when_every_verifier_agrees(
    judgement: Judgement | None, message: str
) -> None:
    registries = VerifiedRegistries(FakeRegistries(), {"v": Says(judgement)})
    reference = Reference.parse(NAME)
    repository = registries.repository(reference, RegistryOptions())
    if message:
        with pytest.raises(UnknownError, match=message):
            await repository.resolve(reference)
    else:
        assert await repository.resolve(reference) == IMAGE
