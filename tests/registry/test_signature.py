"""Bundles are signed and checked with real keys and the public tool of the specification; what differs is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from loopback.secret_manager import SecretManager, serving
from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import integrity
from mlapp.registry.__main__ import main
from mlapp.registry.bundle import Draft, Manifest, describe, install, verify
from mlapp.registry.moves import rollback
from mlapp.registry.pointer import Pointer
from mlapp.registry.signing import Signer
from mlapp.schema import Signing

pytest_plugins = "loopback.fixtures"
NAME = "fashion_mnist"
SECRET = "projects/shop-1/secrets/signing"


def pair(folder: Path, name: str) -> Signing:
    """A new key, private and public, in two PEM files."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return Signing(private_key=str(folder / f"{name}.pem"), public_key=str(folder / f"{name}.pub"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Signing:
    return pair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Signing:
    return pair(tmp_path_factory.mktemp("keys"), "theirs")


def filed(registry: str, keys: Signing, content: str = "weights", before: str | None = None) -> UPath:
    """A bundle of two files, champion of the registry."""
    pointer = Pointer(registry, NAME)
    with Draft(pointer.folder) as draft:
        (draft / "model.int8.tflite").write_text(content)
        (draft / "labels.json").write_text("[]")
        about = {"name": NAME, "model": "model.int8.tflite", "predecessor": before, "created": "2026-08-26"}
        place = install(draft, describe(draft, **about, data={}, stages={}, history=None), pointer.folder, keys)
    pointer.swap(before, place.name, {"model": "any"}, keys)
    return place


def test_what_is_promoted_with_a_key_can_be_trusted_by_it(tmp_path: Path, keys: Signing) -> None:
    place = filed(str(tmp_path), keys)
    files = {"model.int8.tflite", "labels.json", "manifest.json", "manifest.sig"}
    assert {path.name for path in place.iterdir()} == files
    assert verify(place, keys).id == verify(place).id == place.name


def test_anybody_can_check_it_with_the_public_tool(tmp_path: Path, keys: Signing) -> None:
    place = filed(str(tmp_path), keys)

    def checked() -> subprocess.CompletedProcess[str]:
        tool = [sys.executable, "-Wignore", "-m", "model_signing", "verify", "key", str(place / "manifest.json")]
        given = ["--signature", str(place / "manifest.sig"), "--public_key", str(keys.public_key)]
        return subprocess.run([*tool, *given], capture_output=True, text=True, check=False)

    assert checked().returncode == 0, checked().stderr
    (place / "manifest.json").write_text((place / "manifest.json").read_text() + " ")
    assert checked().returncode != 0


def test_in_a_bucket_it_goes_the_same_way(cloud: dict[str, str], keys: Signing, others: Signing) -> None:
    place = filed(f"gs://models/{uuid.uuid4().hex}", keys)
    assert verify(place, keys).id == place.name
    with pytest.raises(UserError, match="is not signed by the holder of"):
        verify(place, others)


def test_another_key_is_refused(tmp_path: Path, keys: Signing, others: Signing) -> None:
    place = filed(str(tmp_path), keys)
    with pytest.raises(UserError, match=r"is not signed by the holder of .*theirs\.pub") as error:
        verify(place, others)
    assert "\n" not in str(error.value)


def test_a_bundle_that_somebody_made_over_whole_is_refused(tmp_path: Path, keys: Signing) -> None:
    """Given one who can write the registry and hash as well as we can, then the signature is what is missing."""
    place = filed(str(tmp_path), keys)
    forged = tmp_path / "forged"
    shutil.copytree(place.path, forged)
    (forged / "model.int8.tflite").write_text("other weights")
    old = Manifest.load(forged / "manifest.json").model_dump(exclude={"files"})
    (forged / "manifest.json").unlink()
    (forged / "manifest.sig").unlink()
    manifest = describe(forged, **old)
    target = place.parent / manifest.id
    shutil.copytree(forged, target.path)
    (target / "manifest.json").write_text(manifest.model_dump_json(exclude_unset=True))
    assert verify(target).id == manifest.id
    with pytest.raises(UserError, match=r"is not signed: sign it with `python -m mlapp\.registry sign"):
        rollback(str(tmp_path), NAME, manifest.id, keys=keys)
    shutil.copyfile((place / "manifest.sig").path, (target / "manifest.sig").path)
    with pytest.raises(UserError, match="is not signed by the holder of"):
        rollback(str(tmp_path), NAME, manifest.id, keys=keys)
    assert Pointer(str(tmp_path), NAME).read() == place.name


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff\x00", b'{"dsseEnvelope": {}}', b"[" * 5000],
    ids=["empty", "no envelope", "binary", "empty envelope", "deep"],
)
def test_a_signature_that_is_none_is_told_in_one_line(tmp_path: Path, keys: Signing, content: bytes) -> None:
    place = filed(str(tmp_path), keys)
    (place / "manifest.sig").write_bytes(content)
    with pytest.raises(UserError, match="is not signed by the holder of") as error:
        verify(place, keys)
    assert "\n" not in str(error.value)


def test_with_a_key_not_even_the_historys_last_line_can_be_written_anew(
    tmp_path: Path, keys: Signing, others: Signing
) -> None:
    """Given a history whose last move was signed, then a line whose hash no other line holds is told nevertheless."""
    first = filed(str(tmp_path), keys)
    filed(str(tmp_path), keys, "others", first.name)
    pointer = Pointer(str(tmp_path), NAME)
    rollback(str(tmp_path), NAME, by="Ada", keys=keys)
    assert integrity.damage(str(tmp_path), NAME, keys) == []
    line = f"line 1 (and 2 more) of {pointer.folder}/HISTORY.jsonl is not signed by a key in force"
    assert any(found.startswith(line) for found in integrity.damage(str(tmp_path), NAME, others))
    storage.write_text(pointer.folder / "HISTORY.jsonl", pointer.history_text().replace('"Ada"', '"Eve"'))
    assert pointer.history()[-1]["by"] == "Eve"
    [found] = integrity.damage(str(tmp_path), NAME, keys)
    assert found.startswith(f"line 3 of {pointer.folder}/HISTORY.jsonl is not signed by a key in force")


def test_bundles_of_before_are_signed_by_command(
    tmp_path: Path, keys: Signing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = filed(str(tmp_path), Signing())
    with pytest.raises(UserError, match="is not signed"):
        verify(place, keys)
    with pytest.raises(SystemExit):
        main(["sign", place.name, "--registry", str(tmp_path)])
    assert "signing.private_key is not set" in capsys.readouterr().err
    monkeypatch.setenv("MLAPP_SIGNING__PRIVATE_KEY", str(keys.private_key))
    main(["sign", place.name, "--registry", str(tmp_path)])
    assert capsys.readouterr().out == f"{NAME}: {place.name} is signed\n"
    assert verify(place, keys).id == place.name


def test_a_key_out_of_secret_manager_leaves_no_trace(
    tmp_path: Path, keys: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = Path(str(keys.private_key)).read_bytes()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with serving(SecretManager({SECRET: [private]})) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        place = filed(str(tmp_path / "registry"), keys.model_copy(update={"private_key": SECRET}))
    assert verify(place, keys).id == place.name
    assert not list((tmp_path / "scratch").iterdir())
    written = [path.read_bytes() for path in (tmp_path / "registry").rglob("*") if path.is_file()]
    assert not any(b"PRIVATE" in content for content in written)


@pytest.mark.parametrize("which", ["private_key", "public_key"])
@pytest.mark.parametrize("content", [None, b"", b"not a key"])
def test_a_key_that_is_none_is_told_without_what_it_holds(
    tmp_path: Path, keys: Signing, which: str, content: bytes | None
) -> None:
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    gist = r"signing\.private_key" if which == "private_key" else r"key\.pem"
    with pytest.raises(UserError, match=gist) as error:
        verify(filed(str(tmp_path / "registry"), wrong := keys.model_copy(update={which: str(file)})), wrong)
    assert "\n" not in str(error.value)
    assert "not a key" not in str(error.value)
    assert ("key.pem" in str(error.value)) == (which == "public_key")
    if which == "private_key":
        assert Pointer(str(tmp_path / "registry"), NAME).read() is None


def test_a_kill_while_it_signs_leaves_no_key_on_the_disk(tmp_path: Path, keys: Signing) -> None:
    """Given a key from Secret Manager and kills at twenty moments of signing, then no file anywhere holds it."""
    secret = Path(str(keys.private_key)).read_bytes()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = f"""
import sys
from mlapp.registry.signing import Signer
from mlapp.schema import Signing
print("ready", flush=True)
while True:
    signer = Signer(Signing(private_key={SECRET!r}))
    signer.sign("a line"), signer.sign_manifest(b"{{}}")
"""
    with serving(SecretManager({SECRET: [secret]})) as environ:
        given = {**os.environ, **environ, "TMPDIR": str(scratch), "HOME": str(scratch)}
        for moment in range(20):
            with subprocess.Popen(
                [sys.executable, "-Wignore", "-c", code], cwd=scratch, env=given, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout
                assert process.stdout.readline() == b"ready\n"
                time.sleep(0.02 * moment)
                process.kill()
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_a_key_that_others_may_read_is_warned_about_without_its_place(
    tmp_path: Path, keys: Signing, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "open.pem"
    file.write_bytes(Path(str(keys.private_key)).read_bytes())
    for mode, warned in ((0o600, False), (0o644, True), (0o640, True)):
        caplog.clear()
        file.chmod(mode)
        Signer(Signing(private_key=str(file)))
        assert ["chmod 600" in line and "open.pem" not in line for line in caplog.messages] == [True] * warned


def test_signing_needs_neither_the_library_nor_its_two_seconds(tmp_path: Path, keys: Signing) -> None:
    code = "import sys; from mlapp.registry.signing import Signer; from mlapp.schema import Signing; "
    code += f"Signer(Signing(private_key={keys.private_key!r})).sign_manifest(b'x'); "
    code += "print('model_signing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
