"""Files that try to run a command, or to take all memory, and what every command must answer to them: one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp import tensors
from mlapp.command_line import main
from mlapp.stage import Stage

MOST_SECONDS, MOST_MB = 20.0, 600


class Evil:
    """Runs a command wherever it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@contextmanager
def harmless(marker: Path) -> Iterator[None]:
    """Nothing is run inside, it takes seconds, and little memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not marker.exists(), "the file ran a command"
    assert time.monotonic() - began < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MB


def refused(stage: Stage[Any], argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a stage's command ends with, exit code 2."""
    capsys.readouterr()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main(stage, ["tracking.wandb=off", *argv])
    finally:
        signal.signal(signal.SIGTERM, handler)
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert (ended.value.code, len(told)) == (2, 1), told
    assert ": error: " in told[0]
    return told[0]


def pickled(marker: Path) -> bytes:
    """A pickle that runs a command."""
    return pickle.dumps(Evil(marker))


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive; equal bytes shrink to a thousandth."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def objects(marker: Path) -> bytes:
    """An .npy file of a Python object."""
    made = io.BytesIO()
    np.save(made, np.array([Evil(marker)], object), allow_pickle=True)
    return made.getvalue()


def keras_file(marker: Path) -> bytes:
    """What tf_keras' safe mode imports and calls: a layer that names a function of any module."""
    layer = {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "system",
        "inbound_nodes": [f"touch {marker}"],
    }
    config = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "x", "layers": [layer]},
        "registered_name": None,
    }
    return zipped({"config.json": json.dumps(config).encode(), "metadata.json": b"{}", "model.weights.h5": b""})


def external_h5(folder: Path) -> bytes:
    """An HDF5 file whose weights are a link to another file."""
    import h5py

    path = folder / "linked.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = h5py.ExternalLink("/etc/passwd", "/")
        layout = h5py.VirtualLayout((1 << 40,), "f4")
        file.create_virtual_dataset("virtual", layout)
    return path.read_bytes()


def safetensors(header: Any, numbers: bytes = b"", length: int | None = None) -> bytes:
    """A file of arrays with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


def array_files(marker: Path, folder: Path) -> dict[str, bytes]:
    """Contents that are no file of arrays, by what is wrong with them."""
    place = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return {
        "pickle": pickled(marker),
        "keras": keras_file(marker),
        "npy of objects": objects(marker),
        "zip bomb": zipped({"a.npy": bytes(50_000_000)}),
        "hdf5 with links": external_h5(folder),
        "empty": b"",
        "header beyond the end": safetensors({}, length=1 << 62),
        "header cut off": safetensors({"a": place}, bytes(16))[:20],
        "header of lists": safetensors(b"[" * 100_000 + b"]" * 100_000),
        "header no map": safetensors([1]),
        "type object": safetensors({"a": {**place, "dtype": "O"}}, bytes(16)),
        "shape beyond memory": safetensors({"a": {**place, "shape": [1 << 40, 1 << 20]}}, bytes(16)),
        "shape negative": safetensors({"a": {**place, "shape": [-4]}}, bytes(16)),
        "shape overflowing": safetensors({"a": {**place, "shape": [1 << 32, 1 << 32, 0]}}, bytes(16)),
        "offsets overlapping": safetensors({"a": place, "b": place}, bytes(16)),
        "numbers missing": safetensors({"a": place}, bytes(8)),
        "numbers left over": safetensors({"a": place}, bytes(999)),
    }


def archive(members: dict[str, bytes], kind: str = "w", **special: Any) -> bytes:
    """A tar archive; ``special`` are attributes of its members."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=kind) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for attribute, value in special.items():
                setattr(member, attribute, value)
            file.addfile(member, io.BytesIO(content))
    return made.getvalue()


def write(path: Path, arrays: dict[str, Any], about: dict[str, str]) -> bytes:
    """A sound file of arrays, whatever they are for."""
    tensors.write(path, arrays, about)
    return path.read_bytes()


def python(script: str) -> Callable[[], int]:
    """Run a script in a process of its own; its exit code."""
    import subprocess

    return lambda: subprocess.run([sys.executable, "-c", script], check=False).returncode
