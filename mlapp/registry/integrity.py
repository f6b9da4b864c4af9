"""Whether all that a registry holds of a model is as it was: bundles, history, pointer, signatures, kinds of files.

The registry may be in use meanwhile. Bundles never change, so each is read once; what relates them to history and
pointer is judged by one moment's state, again and again as long as something seems wrong and the state has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import files, history, trust
from mlapp.registry.bundle import MANIFEST, Manifest, whole
from mlapp.registry.judge import Judge
from mlapp.registry.keys import UNSIGNED, Keyring, keyring
from mlapp.registry.pointer import BUNDLE_ID, HISTORY, POINTER, Pointer
from mlapp.registry.state import State, read_version
from mlapp.schema import Signing

LOCAL_WORKERS, REMOTE_WORKERS = min(32, 4 * (os.cpu_count() or 1)), 32  # a remote store is mostly waited for
PATIENCE_S = 60.0  # with a registry that changes all the time
Progress = Callable[[int, int], None]


@dataclass
class Report:
    """What was found: a line for everything that is wrong, and how the bundles that are whole are signed."""

    damage: list[str] = field(default_factory=list)
    signed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """How many bundles there are, and how they are signed."""
        counts = {state: list(self.signed.values()).count(state) for state in sorted(set(self.signed.values()))}
        told = ", ".join(state if len(counts) == 1 else f"{count} {state}" for state, count in counts.items())
        return f"{len(self.signed)} bundle{'' if len(self.signed) == 1 else 's'}{', ' if told else ''}{told}"


def damage(registry: str, name: str, keys: Signing = UNSIGNED) -> list[str]:
    """Everything that is wrong with a model's part of the registry, a line each; nothing where all is whole."""
    return inspect(registry, name, keys).damage


def inspect(
    registry: str,
    name: str,
    keys: Signing = UNSIGNED,
    only: str | None = None,
    progress: Progress = lambda done, of: None,
) -> Report:
    """Look at every bundle, or at one, and at what relates them; ``progress`` hears how many of how many are read."""
    pointer, known = Pointer(registry, name), dict[str, Manifest | UserError]()
    try:
        files.check_folder(pointer.folder)
    except UserError as error:
        return Report([str(error)])
    ring = keyring(keys)  # a key that cannot be read is no damage
    deadline = time.monotonic() + PATIENCE_S
    while True:
        began = _versions(pointer)
        report = _report(pointer, ring, known, only, progress)
        if not report.damage or _versions(pointer) == began or time.monotonic() > deadline:
            return report
        known = {bundle: found for bundle, found in known.items() if isinstance(found, Manifest)}


def _versions(pointer: Pointer) -> tuple[object, ...]:
    """What changes whenever the registry does, whatever state its files are in."""
    found: list[object] = [[name for name in files.names(pointer.folder) if BUNDLE_ID.fullmatch(name)]]
    for name in (HISTORY, POINTER):
        try:
            found.append(read_version(pointer.folder / name))
        except (UserError, OSError, UnicodeDecodeError) as error:
            found.append(str(error))
    return tuple(found)


def _report(
    pointer: Pointer, ring: Keyring, known: dict[str, Manifest | UserError], only: str | None, progress: Progress
) -> Report:
    report, folder = Report(_odd(pointer.folder)), pointer.folder
    state: State | None = None
    try:
        state = pointer.state()
    except UserError as error:
        report.damage.append(str(error))
    present = _bundles(folder)
    looked = [bundle for bundle in present if only in (None, bundle)]
    _read(folder, [bundle for bundle in looked if bundle not in known], known, progress)
    for bundle in looked:
        if isinstance(found := known[bundle], UserError) and _is_there(folder / bundle / MANIFEST):
            report.damage.append(str(found))
    manifests = {bundle: each for bundle in looked if isinstance(each := known[bundle], Manifest)}
    report.damage += [
        f"bundle {folder / bundle} is one of {manifest.name}: remove it"
        for bundle, manifest in manifests.items()
        if manifest.name != folder.name
    ]
    if state:
        _relate(report, pointer, state, present, manifests)
        _judge(report, folder, Judge.by(folder, state.text, ring), manifests)
    return report


def _pool(folder: UPath) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LOCAL_WORKERS if storage.is_local(folder) else REMOTE_WORKERS)


def _odd(folder: UPath) -> list[str]:
    """What stands where a bundle, a draft or the lock belongs, and is something else."""
    found = []
    for name in files.names(folder) if storage.is_local(folder) else ():
        is_folder = BUNDLE_ID.fullmatch(name) or name.startswith(".draft-")
        wanted = files.FOLDER if is_folder else files.FILE if name == files.LOCK else None
        if wanted and files.kind(folder / name) not in (wanted, None):
            found.append(str(files.odd(folder / name)))
    return found


def _bundles(folder: UPath) -> list[str]:
    """The ids of the bundles there are; a folder without a manifest is one that is being written, or removed."""
    ids = [name for name in files.names(folder) if BUNDLE_ID.fullmatch(name)]
    if storage.is_local(folder):
        ids = [each for each in ids if files.kind(folder / each) == files.FOLDER]
    with _pool(folder) as pool:
        there = list(pool.map(lambda each: _is_there(folder / each / MANIFEST), ids))
    return [each for each, is_there in zip(ids, there, strict=True) if is_there]


def _is_there(path: UPath) -> bool:
    """Whether anything is at a path, a link that leads nowhere included."""
    return files.kind(path) is not None if storage.is_local(path) else path.exists()


def _read(folder: UPath, bundles: list[str], known: dict[str, Manifest | UserError], progress: Progress) -> None:
    """Read and hash bundles, several at a time."""

    def read(bundle: str) -> Manifest | UserError:
        try:
            return whole(folder / bundle)
        except UserError as error:
            return error
        except OSError as error:
            if not storage.is_local(folder):
                raise  # a store that does not answer is no damage
            return UserError(f"bundle {folder / bundle} cannot be read ({error}): restore it, or its permissions")

    with _pool(folder) as pool:
        for done, (bundle, found) in enumerate(zip(bundles, pool.map(read, bundles), strict=True), start=1):
            known[bundle] = found
            progress(done, len(bundles))


def _relate(report: Report, pointer: Pointer, state: State, present: list[str], manifests: dict[str, Manifest]) -> None:
    """How pointer, history and bundles fit each other."""
    folder = pointer.folder
    if state.pending:
        report.notes.append(f"the move to {state.decided} was cut off, the next promotion or rollback completes it")
    elif not state.agreed:
        report.damage.append(state.disagreement(folder))
    for bundle in trust.lost_anchors(folder, state.text, state.moves).values():
        report.damage.append(trust.lost_line(folder, folder / HISTORY, bundle))
    gone = dict.fromkeys(move["champion"] for move in state.moves if move["champion"] not in present)
    report.damage += [f"bundle {folder / bundle} is gone: restore it from a copy" for bundle in sorted(gone)]
    named_once, head = {move["champion"] for move in state.moves}, history.head(state.text)
    for bundle, manifest in manifests.items():
        if head and manifest.history == head and bundle not in named_once:
            report.notes.append(
                f"bundle {folder / bundle} was made to follow the history's last line, and no line names it: its "
                "promotion was cut off, or that line was removed"
            )
        named = [move for move in state.moves if move["champion"] == bundle]
        if any(move.get("manifest", manifest.digest) != manifest.digest for move in named):
            report.damage.append(f"bundle {folder / bundle} is not the one that was promoted: restore it from a copy")


def _judge(report: Report, folder: UPath, judge: Judge, manifests: dict[str, Manifest]) -> None:
    """What the keys say of the history and of every bundle."""
    if judge.trust.problem:
        report.damage.append(judge.trust.problem)
    with _pool(folder) as pool:
        looked = pool.map(lambda bundle: judge.look(folder / bundle, manifests[bundle].digest), manifests)
        for bundle, (signed, why) in zip(manifests, looked, strict=True):
            report.signed[bundle] = signed
            report.damage += [why] if why else []
