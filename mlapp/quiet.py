"""What a command prints: its answer to stdout, and nothing of native libraries into the log."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from mlapp.errors import UserError


def answer(text: str) -> None:
    """Print a command's answer to stdout, in what characters it has; a `UserError` where it is full or nobody reads."""
    if sys.stdout is None:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sys.stdout.write(f"{text.encode(encoding, 'backslashreplace').decode(encoding)}\n")
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries again when it ends
        raise UserError(f"the answer cannot be written to standard output ({error.strerror}): run again") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what native code writes to stderr, and Python's warnings; all of it is shown if the block fails.

    TensorFlow's and LiteRT's libraries announce missing CUDA drivers, converter settings and delegates there, past
    every logging switch.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what the block, its libraries and its child processes print: stdout is for a command's answer."""
    if sys.stdout is None:  # the command was started with it closed
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
