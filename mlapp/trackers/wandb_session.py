"""How the side process stands with W&B: its files within the run's folder, and whether a server takes the key."""

from __future__ import annotations

import netrc
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlapp import authenticate
from mlapp.errors import OneLineError

ANSWER_WITHIN_S = 5
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


class Session:
    """Decides once whether runs go to the server or stay in files, and says why where that is not as wished.

    A key that is in Secret Manager is fetched once, into this process's environment: no other process has it but W&B's
    own, and the stage never does.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say
        self._mode: str | None = None

    def start(self, project: str, wished: str, secret: str | None, **settings: Any) -> Any:
        """A W&B run: online if that is wished and possible, else in files. Any number may be open at once.

        ``secret`` names the key in Secret Manager, for where neither the environment nor ~/.netrc has one.
        """
        wandb = self._wandb()
        online = wished != "offline" and self._online(wandb, wished, secret)
        return wandb.init(
            project=project,
            dir=str(self.folder),
            resume="allow" if online else None,
            settings=wandb.Settings(
                mode="online" if online else "offline",
                reinit="create_new",
                init_timeout=2 * ANSWER_WITHIN_S,
                finish_timeout=60,
                silent=True,
                console="off",
                symlink=False,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
            **settings,
        )

    def close(self) -> None:
        """Wait until the files of finished runs are whole: W&B's own process ends them after ``finish`` has returned.

        Left alone, it loses what it has not written. A server that does not answer holds it up: it gets some seconds.
        """
        if wandb := sys.modules.get("wandb"):
            closing = threading.Thread(target=wandb.teardown, daemon=True)
            closing.start()
            closing.join(ANSWER_WITHIN_S)

    def _wandb(self) -> Any:
        """The library, imported with nothing of it reaching beyond the run's folder."""
        kept = str(self.folder / "wandb" / "data")
        os.environ.update(WANDB_ERROR_REPORTING="false", WANDB_DATA_DIR=kept, WANDB_CACHE_DIR=kept)
        os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(ANSWER_WITHIN_S))
        for name in ("WANDB_MODE", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_DIR"):  # the settings say these
            os.environ.pop(name, None)
        import wandb

        return wandb

    def _online(self, wandb: Any, wished: str, secret: str | None) -> bool:
        if self._mode is None:
            self._mode = self._probe(wandb, wished, secret)
        return self._mode == "online"

    def _probe(self, wandb: Any, wished: str, secret: str | None) -> str:
        host = wandb.setup().settings.base_url
        if secret and not has_key(host) and not self._fetch(secret):
            return "offline"
        if not has_key(host):
            if wished == "online":
                self._say(f"W&B has no key: give WANDB_API_KEY, or run `wandb login`; {self._kept()}")
            return "offline"
        try:
            wandb.login(verify=True)
        except wandb.Error as error:
            reason = str(error).removeprefix(f"Failed to authenticate with {host}: ").rstrip(".")
            if "did not respond" in reason:
                self._say(f"W&B does not answer at {host}: {self._kept()}")
            else:
                self._say(f"W&B refused the key: {reason}; {self._kept()}")
            return "offline"
        return "online"

    def _fetch(self, secret: str) -> bool:
        try:
            os.environ[KEYS[0]] = authenticate.secret(secret).get_secret_value()
        except OneLineError as error:
            self._say(f"W&B has no key: {error}; {self._kept()}")
            return False
        return True

    def _kept(self) -> str:
        return f"the run is kept in {self.folder / 'wandb'}, `wandb sync` can send it later"


def has_key(host: str) -> bool:
    """Whether there is a key for this server, in the environment or where ``wandb login`` leaves it."""
    if any(os.environ.get(name) for name in KEYS):
        return True
    places = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    path = next((Path(place) for place in places if place and Path(place).is_file()), None)
    try:
        return path is not None and netrc.netrc(str(path)).authenticators(urlsplit(host).netloc) is not None
    except (netrc.NetrcParseError, OSError):
        return False
