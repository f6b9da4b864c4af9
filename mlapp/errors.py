"""The one exception for what a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or a bad environment, told in one line: what is wrong, then what to do.

    A stage that raises it ends with exit code 2 and that line, without a traceback. Anything else that escapes a
    stage is a bug and keeps its traceback.
    """


class Terminated(BaseException):
    """SIGTERM arrived. A BaseException, so that no ``except Exception`` swallows it on the way to a checkpoint."""
