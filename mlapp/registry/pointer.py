"""The pointer to the champion: one line in a file, moved by compare-and-swap, and the history of its moves."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import gcs, storage
from mlapp.errors import TryAgainError, UserError, printable
from mlapp.registry import files, history, trust
from mlapp.registry import state as registry_state
from mlapp.registry.signing import Signer
from mlapp.registry.state import POINTED, State, read_version
from mlapp.schema import Signing

POINTER, HISTORY, BUNDLE_ID, LOCK = registry_state.POINTER, registry_state.HISTORY, history.BUNDLE_ID, files.LOCK
TRIES = 20  # at reading a consistent state while others move the pointer

log = logging.getLogger("mlapp")


class Pointer:
    """The champion of one model name in a registry folder, local or in Cloud Storage.

    A move is decided by its line in the history, which holds the version of the pointer that it moves: where a kill
    came between the two, the next move completes it. A pointer that somebody wrote by hand is of another version, and
    stops every move. On a disk a lock file keeps other processes away. In Cloud Storage each of the two objects is
    written only if it still is of the generation that was read: of several that promote at once, one wins.
    """

    def __init__(self, registry: str, name: str) -> None:
        self.folder = storage.at(registry) / name

    def read(self) -> str | None:
        """The id of the champion's bundle, or None before the first promotion; a `UserError` if it names no bundle."""
        return self._read()[0]

    def state(self) -> State:
        """History and pointer of one moment, for who only looks: a move meanwhile gives one of them another version."""
        for _ in range(TRIES):
            text, noted = self._history()
            present, version = self._read()
            state = State(text, noted, history.moves(text, self.folder / HISTORY), present, version)
            if state.agreed or state.pending or self._history()[1] == noted:
                break
        return state

    def swap(self, expected: str | None, new: str, entry: dict[str, Any], keys: Signing | None = None) -> None:
        """Point at ``new`` if the pointer still is at ``expected``, with ``entry`` as the history's next line.

        The line is signed where there is a key, and nothing is added to a history that the keys do not vouch for. A
        `UserError` says so if the champion moved meanwhile; then nothing is changed.
        """
        signer = Signer(keys)
        with self._locked(), self._room(new) as ready:
            state = self._settled(signer)
            if state.present != expected:
                raise self._overtaken(expected)
            self._decide(state, signer, {"champion": new, "before": expected, POINTED: state.version, **entry})
            self._point(new, state.version, ready)

    def record(self, entry: dict[str, Any], keys: Signing | None = None, adopt: str | None = None) -> None:
        """Add a line about keys, which moves nothing.

        ``adopt`` is the champion's id where the line takes over whatever history and pointer say.
        """
        signer = Signer(keys)
        with self._locked():
            state = self._completed() if adopt else self._settled(signer)
            if state.present is None:
                raise UserError(f"{self.folder} has no champion: give --name and --registry of a promoted model")
            if adopt and state.present != adopt:
                raise self._overtaken(adopt)
            before = trust.whole_before(history.lines(state.text))
            line = {"champion": state.present, "before": state.decided, trust.BEFORE: before, **entry}
            if adopt and (lost := trust.lost_anchors(self.folder, state.text, state.moves)):
                line[trust.LOST] = sorted(lost)
            self._decide(state, signer, line)

    def settle(self, keys: Signing | None = None) -> str | None:
        """Complete a move that was cut off; returns the champion. A `UserError` if nothing may be built upon it."""
        signer = Signer(keys)
        with self._locked():
            return self._settled(signer).present

    def history(self) -> list[dict[str, Any]]:
        """All moves of the pointer, the oldest first; a `UserError` if the file was tampered with."""
        return history.moves(self.history_text(), self.folder / HISTORY)

    def history_text(self) -> str:
        """The history as it stands in its file."""
        return self._history()[0]

    def _read(self) -> tuple[str | None, int]:
        """The champion's bundle id, and the version of the file that names it."""
        path = self.folder / POINTER
        cure = "write the champion's bundle id into it"
        try:
            text, version = read_version(path)
        except (OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and not storage.is_local(path):
                raise  # a store that does not answer says nothing of the file
            raise storage.explain(error) or UserError(f"cannot read {path} ({error}): {cure}") from error
        bundle = None if text is None else text.strip()
        if bundle is not None and not BUNDLE_ID.fullmatch(bundle):
            raise UserError(f"{path} names no bundle, but {bundle[:40]!r}: {cure}")
        return bundle, version

    def _history(self) -> tuple[str, int]:
        path = self.folder / HISTORY
        try:
            text, version = read_version(path)
        except (OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and not storage.is_local(path):
                raise
            raise UserError(f"{path} is not a history of promotions: restore it from a copy") from error
        return text or "", version

    def _completed(self) -> State:
        """The state of one moment, in which no move is half done."""
        for _ in range(TRIES):
            state = self.state()
            if not state.pending:
                return state
            _replace(self.folder / POINTER, f"{state.decided}\n", state.version)
        raise UserError(f"{self.folder} changes too fast to be read: run again")

    def _settled(self, signer: Signer) -> State:
        """The same, where pointer, history, signatures and bundles agree; a `UserError` says what does not."""
        for _ in range(TRIES):
            state = self.state()
            try:
                signer.check(trust.check(self.folder, state.text, self.folder / HISTORY, signer.ring))
            except UserError:
                if self._history()[1] == state.noted:
                    raise
                continue  # somebody moved the pointer while we looked at the bundles
            if state.pending:
                _replace(self.folder / POINTER, f"{state.decided}\n", state.version)
            elif state.agreed:
                return state
            elif self._history()[1] == state.noted:
                state.check(self.folder)
        raise UserError(f"{self.folder} changes too fast to be read: run again")

    def _decide(self, state: State, signer: Signer, move: dict[str, Any]) -> None:
        """Write the line that decides a move; a `UserError` if somebody else's came first."""
        text = history.appended(state.text, {**move, trust.NAME: self.folder.name}, signer.sign)
        try:
            done = _replace(self.folder / HISTORY, text, state.noted)
        except Exception as error:
            if not self._is_decided(text, error):  # else only the answer was lost
                raise
            return
        if not done and not self._is_decided(text):
            raise self._overtaken(state.present)

    def _is_decided(self, text: str, lost: Exception | None = None) -> bool:
        """Whether the history has the last line of this text, by now with others after it perhaps."""
        try:
            return history.holds(self.history_text(), history.head(text))
        except Exception as error:
            raise TryAgainError(
                f"it is not known whether the move was written ({printable(str(lost or error))[:200]}): run the same "
                f"again, or look with `{trust.command('show', self.folder)}`"
            ) from error

    def _point(self, new: str, version: int, ready: Path | None) -> None:
        """Move the pointer, once the history's line has decided that it moves; what fails now does not undo that."""
        try:
            # If it is of another version by now, another process has completed this very move.
            _replace(self.folder / POINTER, f"{new}\n", version, ready)
        except Exception as error:
            told = printable(str(storage.explain(error) or error))
            log.warning(
                "the move to %s is decided and in the history, but %s still has the old value (%s): the next promotion "
                "or rollback, or `%s --why complete`, completes it",
                *(new, self.folder / POINTER, told, trust.command(f"promote {new}", self.folder)),
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes away from a local registry; what a kill left of files that were being written goes."""
        with files.locked(self.folder):
            if storage.is_local(self.folder):
                for left in Path(self.folder.path).glob(f".*{storage.DRAFT}"):
                    if files.kind(left) == files.FOLDER:
                        raise files.odd(left)
                    left.unlink()
            yield

    @contextmanager
    def _room(self, new: str) -> Iterator[Path | None]:
        """The pointer's next file, written before the move is decided, so that a full disk cannot come between."""
        if not storage.is_local(self.folder):
            yield None
            return
        ready = Path(self.folder.path, f".{POINTER}.next{storage.DRAFT}")
        try:
            with ready.open("x", encoding="utf-8") as stream:
                stream.write(f"{new}\n")
                stream.flush()
                os.fsync(stream.fileno())
            ready.chmod(0o644)
            yield ready
        finally:
            ready.unlink(missing_ok=True)

    def _overtaken(self, expected: str | None) -> UserError:
        return UserError(
            f"the champion changed meanwhile (from {expected} to {self.read()}): run the DAG again, so that the "
            "challenger is vetted against the present one"
        )


def _replace(path: UPath, text: str, version: int, ready: Path | None = None) -> bool:
    """Write a file if it still is of this version, and whether it was; on a disk the lock sees to that.

    ``ready`` is a file with that text, which only needs to be moved.
    """
    if storage.in_gcs(path):
        return gcs.replace(path, text, version)
    if ready:
        os.replace(ready, path.path)
    else:
        storage.write_text(path, text)
    return True


def manifest_of(registry: str, name: str, bundle: str | None) -> UPath | None:
    """Where the manifest of a bundle lies; a `UserError` if the registry lacks it."""
    if bundle is None:
        return None
    path = storage.at(registry) / name / bundle / "manifest.json"
    if not path.exists():
        raise UserError(
            f"{path} is missing, though the registry names bundle {bundle}: restore it, or move the pointer"
        )
    return path
