"""A history that the keys do not vouch for is never built upon, and the commands about keys do what they say."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shelf
from shelf import NAME, promote

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import history, integrity, rekeying
from mlapp.registry.__main__ import main
from mlapp.registry.bundle import verify
from mlapp.registry.keys import keyring
from mlapp.registry.moves import check, rollback
from mlapp.registry.pointer import HISTORY, POINTER, Pointer
from mlapp.schema import Signing

pytest_plugins = "loopback.fixtures"


@pytest.fixture
def keys(tmp_path: Path) -> Signing:
    return shelf.pair(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Signing:
    return shelf.pair(tmp_path, "theirs")


@pytest.fixture
def registry(tmp_path: Path, keys: Signing) -> str:
    """Three signed promotions."""
    folder = str(tmp_path / "registry")
    for content in ("one", "two", "three"):
        promote(folder, content, keys)
    return folder


def lines(registry: str, name: str = NAME) -> list[str]:
    return Pointer(registry, name).history_text().splitlines(keepends=True)


def rewrite(registry: str, written: list[str], champion: str | None = None, name: str = NAME) -> None:
    """What somebody does who may write the registry, and hashes as well as we can."""
    folder = Pointer(registry, name).folder
    storage.write_text(folder / HISTORY, "".join(written))
    if champion:
        storage.write_text(folder / POINTER, f"{champion}\n")


def chained(written: list[str], **move: Any) -> list[str]:
    return history.appended("".join(written), move).splitlines(keepends=True)


def rechained(written: list[str]) -> list[str]:
    """The same moves with their signatures, chained again."""
    text = ""
    for line in written:
        move = {name: value for name, value in json.loads(line).items() if name != "previous"}
        signature = move.pop("signature", None)
        text = history.appended(text, move, (lambda _, s=signature: s) if signature else None)
    return text.splitlines(keepends=True)


def refused(registry: str, keys: Signing, gist: str, name: str = NAME) -> None:
    """No command moves anything, each says why in one line with a command, nothing is written, `verify` finds it."""
    pointer = Pointer(registry, name)
    before = pointer.history_text(), (pointer.folder / POINTER).read_text()
    ids = list(dict.fromkeys(json.loads(line)["champion"] for line in lines(registry, name)))
    attempts: list[Callable[[], object]] = [
        lambda: rollback(registry, name, keys=keys),
        lambda: rollback(registry, name, ids[0], keys=keys),
        lambda: pointer.settle(keys),
        lambda: pointer.swap(pointer.read(), "0" * 12, {}, keys),
        lambda: rekeying.revoke(registry, name, keys, "0" * 64, by=None, why="x"),
    ]
    for attempt in [*attempts[:-1], lambda: check(registry, name, keys)]:
        with pytest.raises(UserError, match=gist) as error:
            attempt()
        assert "\n" not in str(error.value)
        assert "`" in str(error.value)
    with pytest.raises(UserError):
        attempts[-1]()
    assert (pointer.history_text(), (pointer.folder / POINTER).read_text()) == before
    assert integrity.damage(registry, name, keys)


def test_unsigned_but_chained_lines_are_never_signed_over(registry: str, keys: Signing) -> None:
    first = json.loads(lines(registry)[0])["champion"]
    last = json.loads(lines(registry)[-1])["champion"]
    rewrite(registry, chained(lines(registry), champion=first, before=last, why="forged"), first)
    refused(registry, keys, r"line 4 of .*HISTORY.jsonl is not signed by a key in force.*adopt --name")


def test_an_unsigned_line_further_up_is_found_too(registry: str, keys: Signing) -> None:
    written = lines(registry)
    forged = {name: value for name, value in json.loads(written[1]).items() if name != "signature"}
    rewrite(registry, rechained([written[0], json.dumps(forged) + "\n", written[2]]))
    refused(registry, keys, r"line 2 \(and 1 more\) of .* is not signed")


@pytest.mark.parametrize("dropped", [1, 2])
def test_dropped_lines_at_the_end_are_noticed(registry: str, keys: Signing, dropped: int) -> None:
    rewrite(registry, lines(registry)[:-dropped])
    refused(registry, keys, "lacks the history that bundle|the history ends with")


def test_dropped_lines_are_noticed_with_a_pointer_that_fits(registry: str, keys: Signing) -> None:
    """Given the last two moves undone in history and pointer, then the last bundle still knows the move before it."""
    rewrite(registry, lines(registry)[:1], json.loads(lines(registry)[0])["champion"])
    refused(registry, keys, "lacks the history that bundle")


def test_a_single_move_that_was_undone_with_its_pointer_is_at_least_noted(registry: str, keys: Signing) -> None:
    """Given that a killed promotion leaves the same, then it stops nobody, and `verify` says it."""
    _, second, third = (json.loads(line)["champion"] for line in lines(registry))
    rewrite(registry, lines(registry)[:2], second)
    report = integrity.inspect(registry, NAME, keys)
    assert report.damage == []
    assert [third in note and "that line was removed" in note for note in report.notes] == [True]


@pytest.mark.parametrize("how", ["repeated", "reordered", "another model's", "another key's"])
def test_signatures_do_not_count_elsewhere(registry: str, keys: Signing, theirs: Signing, how: str) -> None:
    written = lines(registry)
    if how == "repeated":
        rewrite(registry, rechained([*written, written[0]]), json.loads(written[0])["champion"])
    elif how == "reordered":
        rewrite(registry, rechained([written[0], written[2], written[1]]), json.loads(written[1])["champion"])
    elif how == "another model's":
        other = Pointer(registry, "other").folder
        for file in (HISTORY, POINTER):
            storage.copy(Pointer(registry, NAME).folder / file, other / file)
        refused(registry, keys, "line 1 .* is not signed", "other")
        return
    else:
        text = "".join(written)
        forged = history.appended(text, {**json.loads(written[0]), "name": NAME}, lambda _: "AAAA")
        rewrite(registry, forged.splitlines(keepends=True), json.loads(written[0])["champion"])
    refused(registry, keys, "is not signed by a key in force")


def test_a_line_in_another_form_than_it_was_written_in_is_not_signed(registry: str, keys: Signing) -> None:
    written = lines(registry)
    rewrite(registry, [*written[:-1], written[-1].replace('", "', '",  "', 1)])
    refused(registry, keys, "line 3 of .* is not signed")


def test_a_signature_of_one_bundle_does_not_count_for_another(registry: str, keys: Signing) -> None:
    first, second, _ = (json.loads(line)["champion"] for line in lines(registry))
    folder = Pointer(registry, NAME).folder
    storage.copy(folder / first / "manifest.sig", folder / second / "manifest.sig")
    with pytest.raises(UserError, match=r"it is of another manifest.*sign it with"):
        rollback(registry, NAME, second, keys=keys)


def test_a_move_needs_the_key_that_signs(registry: str, keys: Signing, theirs: Signing) -> None:
    for wrong, gist in (
        (keys.model_copy(update={"private_key": None}), "set signing.private_key"),
        (keys.model_copy(update={"private_key": theirs.private_key}), "is none of signing.public_key"),
    ):
        with pytest.raises(UserError, match=gist):
            rollback(registry, NAME, keys=wrong)
    assert len(lines(registry)) == 3
    with pytest.raises(UserError, match=r"set signing\.private_key"):
        check(registry, NAME, keys.model_copy(update={"private_key": None}))
    check(registry, NAME, keys)
    check(registry, "unheard_of", keys)


def test_an_unsigned_history_is_adopted_by_a_signed_line(
    tmp_path: Path, keys: Signing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = str(tmp_path / "old")
    first, second = (promote(registry, content) for content in ("one", "two"))
    assert integrity.damage(registry, NAME) == []
    refused(registry, keys, r"line 1 \(and 1 more\) of .*adopt --name fashion_mnist --registry")
    monkeypatch.setenv("MLAPP_SIGNING__PRIVATE_KEY", str(keys.private_key))
    monkeypatch.setenv("MLAPP_SIGNING__PUBLIC_KEY", str(keys.public_key))
    main(["adopt", "--registry", registry, "--why", "we looked at each"])
    assert capsys.readouterr().out == f"{NAME}: adopted with {second} as the champion (signed)\n"
    assert verify(Pointer(registry, NAME).folder / second, keys).id == second
    line = json.loads(lines(registry)[-1])
    assert (line["event"], line["champion"]) == ("adopt", second)
    main(["sign", "--registry", registry])
    assert capsys.readouterr().out == f"{NAME}: {first} is signed\n"
    main(["verify", "--registry", registry])
    assert capsys.readouterr().out == f"{NAME}: all whole, 2 bundles, signed\n"
    assert rollback(registry, NAME, keys=keys) == (second, first)
    assert integrity.damage(registry, NAME, keys) == []
    # What was adopted cannot be changed afterwards.
    written = lines(registry)
    rewrite(registry, rechained([written[0].replace("promote: one", "promote: 1"), *written[1:]]))
    refused(registry, keys, "is not signed by a key in force")


@pytest.mark.parametrize("event", ["adopt", "revoke"])
def test_lines_of_an_earlier_version_cannot_be_changed_once_they_are_taken_over(
    tmp_path: Path, keys: Signing, theirs: Signing, event: str
) -> None:
    """Given lines that know nothing of the line before, then no chain holds them, but the signed line after them."""
    registry = str(tmp_path / "old")
    ids = [promote(registry, content) for content in ("one", "two", "three")]
    old = [json.loads(line) for line in lines(registry)]
    rewrite(registry, [json.dumps({k: v for k, v in line.items() if k != "previous"}) + "\n" for line in old])
    rekeying.adopt(registry, NAME, keys, by=None, why="reviewed")
    if event == "revoke":
        keys = keys.model_copy(update={"public_key": both(tmp_path, keys, theirs)})
        rekeying.revoke(registry, NAME, keys, str(theirs.public_key), by=None, why="lost")
    rekeying.sign_bundles(Pointer(registry, NAME), keys)
    assert integrity.damage(registry, NAME, keys) == []
    written = lines(registry)
    rewrite(registry, written[1:])
    refused(registry, keys, r"line 1 \(and 1 more\) of .* is not signed by a key in force")
    rewrite(registry, [written[0].replace(ids[0], "0" * 12), *written[1:]])
    refused(registry, keys, r"line 1 \(and 2 more\) of .* is not signed by a key in force")


def test_an_adoption_by_another_key_takes_over_nothing(registry: str, keys: Signing, theirs: Signing) -> None:
    rekeying_keys = theirs
    before = lines(registry)
    rekeying.adopt(registry, NAME, rekeying_keys, by="Eve", why="mine now")
    refused(registry, keys, "line 4 of .* is not signed by a key in force")
    rewrite(registry, before)
    assert integrity.damage(registry, NAME, keys)[0].startswith("bundle ")  # Eve's signature of the champion


def both(tmp_path: Path, old: Signing, new: Signing) -> str:
    """Both public keys in one file."""
    ring = tmp_path / "ring.pub"
    ring.write_bytes(b"".join(Path(str(each.public_key)).read_bytes() for each in (old, new)))
    return str(ring)


def test_after_a_rotation_only_the_new_key_counts(tmp_path: Path, registry: str, keys: Signing) -> None:
    new = shelf.pair(tmp_path, "new")
    with pytest.raises(UserError, match="does not hold the new key yet"):
        rekeying.rotate(registry, NAME, keys, str(new.public_key), by=None, why="yearly")
    ring = both(tmp_path, keys, new)
    old_side, new_side = (Signing(private_key=each.private_key, public_key=ring) for each in (keys, new))
    [fingerprint] = keyring(new)
    assert rekeying.rotate(registry, NAME, old_side, str(new.public_key), by="Ada", why="yearly") == fingerprint
    assert json.loads(lines(registry)[-1])["key"] == fingerprint
    assert integrity.damage(registry, NAME, new_side) == []
    with pytest.raises(UserError, match="is retired since line 4 of the history"):
        rollback(registry, NAME, keys=old_side)
    # What the old key signs now, with whatever else it is configured, does not count for who trusts both.
    text = Pointer(registry, NAME).history_text()
    late = shelf.file_bundle(registry, "late", keys)
    with pytest.raises(UserError, match="is retired since line 4"):
        verify(late, new_side)
    rollback(registry, NAME, keys=new_side)
    assert promote(registry, "four", new_side)
    assert len(text.splitlines()) + 2 == len(lines(registry))
    damage = integrity.damage(registry, NAME, new_side)
    assert [late.name in line for line in damage] == [True]


def test_a_revoked_key_can_be_taken_out_and_its_bundles_signed_again(
    tmp_path: Path, registry: str, keys: Signing
) -> None:
    new = shelf.pair(tmp_path, "new")
    both_side = Signing(private_key=new.private_key, public_key=both(tmp_path, keys, new))
    [old] = keyring(keys)
    with pytest.raises(UserError, match="sign with the key that stays"):
        rekeying.revoke(registry, NAME, keys, old, by=None, why="stolen")
    rekeying.revoke(registry, NAME, both_side, str(keys.public_key), by=None, why="stolen")
    folder = Pointer(registry, NAME).folder
    first = json.loads(lines(registry)[0])["champion"]
    assert verify(folder / first, both_side).id == first  # promoted before that
    stolen = shelf.file_bundle(registry, "forged", keys)
    with pytest.raises(UserError, match="retired since line 4"):
        verify(stolen, both_side)
    with pytest.raises(UserError, match="key that was revoked"):
        rekeying.rotate(registry, NAME, both_side, str(keys.public_key), by=None, why="back")
    # From here on the operator trusts the new key alone, which vouched for the old one's lines.
    with pytest.raises(UserError, match="it was made with another key"):
        verify(folder / first, new)
    assert len(rekeying.sign_bundles(Pointer(registry, NAME), new)) == 3
    assert rollback(registry, NAME, keys=new)[1]
    [found] = integrity.damage(registry, NAME, new)
    assert stolen.name in found
    # Who has the old key still can write nothing that counts: neither on top, nor from before the revocation.
    thief = Signing(private_key=keys.private_key, public_key=None)
    signed = lines(registry)
    rewrite(registry, signed[:3], json.loads(signed[2])["champion"])
    refused(registry, new, r"line 1 \(and 2 more\) of .* is not signed")
    assert thief.private_key


def test_the_command_that_follows_a_revocation_can_be_pasted(
    tmp_path: Path, keys: Signing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a registry whose folder a shell would take apart, then the line that is printed signs in that very one."""
    registry, new = str(tmp_path / "$(touch X) it's"), shelf.pair(tmp_path, "new")
    promote(registry, "one", keys)
    monkeypatch.setenv("MLAPP_SIGNING__PRIVATE_KEY", str(new.private_key))
    monkeypatch.setenv("MLAPP_SIGNING__PUBLIC_KEY", both(tmp_path, keys, new))
    main(["revoke", str(keys.public_key), "--why", "stolen", "--name", NAME, "--registry", registry])
    python, module, name, *arguments = shlex.split(capsys.readouterr().out.split("`")[1])
    assert (python, module, name) == ("python", "-m", "mlapp.registry")
    monkeypatch.setenv("MLAPP_SIGNING__PUBLIC_KEY", str(new.public_key))
    main(arguments)
    assert "is signed" in capsys.readouterr().out


def test_keys_are_the_operators_alone(tmp_path: Path, registry: str, keys: Signing, theirs: Signing) -> None:
    """Given a rotation line that a thief signed with a key of his, then nothing of it counts."""
    pointer = Pointer(registry, NAME)
    [fingerprint] = keyring(theirs)
    forged = history.appended(
        pointer.history_text(),
        {
            "champion": pointer.read(),
            "before": pointer.read(),
            "name": NAME,
            "event": "rotate",
            "key": fingerprint,
        },
    )
    rewrite(registry, forged.splitlines(keepends=True))
    refused(registry, keys, "line 4 of .* is not signed by a key in force")


def test_in_a_bucket_it_goes_the_same_way(cloud: dict[str, str], tmp_path: Path, keys: Signing) -> None:
    registry = f"gs://models/{uuid.uuid4().hex}"
    first, second = (promote(registry, content) for content in ("one", "two"))
    with pytest.raises(UserError, match="adopt --name"):
        rollback(registry, NAME, keys=keys)
    rekeying.adopt(registry, NAME, keys, by="Ada", why="looked at")
    assert rekeying.sign_bundles(Pointer(registry, NAME), keys) == [first]
    assert rollback(registry, NAME, keys=keys) == (second, first)
    assert integrity.damage(registry, NAME, keys) == []
    rewrite(registry, lines(registry)[:-1])
    with pytest.raises(UserError, match="the history ends with"):
        rollback(registry, NAME, keys=keys)
