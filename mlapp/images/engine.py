"""Build the training image with docker or buildah on this machine, and push it. Nothing passes through a shell."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from mlapp import authenticate
from mlapp.child_environment import CLOUD, ENGINE, child_environment
from mlapp.death_signal import tied
from mlapp.errors import UserError
from mlapp.images.context import DOCKERFILE, Context
from mlapp.images.registry import Repository

log = logging.getLogger("mlapp")
LAST_LINES = 3
KILLED_AFTER_S = 3.0  # anyone who stops a stage waits 4 s


def build(engine: str, context: Context, repository: Repository, timeout_minutes: float) -> None:
    """Build and push the image with the context's tag."""
    program = shutil.which(engine)
    if program is None:
        raise UserError(
            f"there is no {engine} on this machine: install it (Debian: apt-get install "
            f"{'docker.io' if engine == 'docker' else engine}), or let Cloud Build do it: images.builder=cloud_build"
        )
    with tempfile.TemporaryDirectory(prefix="mlapp-image-") as scratch:
        folder = Path(scratch, "context")
        context.write(folder)
        image = f"{repository.uri}:{context.tag}"
        # Only Docker's own format keeps SHELL, and docker knows no other.
        form = ["--format=docker", "--layers"] if engine == "buildah" else []
        what = [*context.build_arguments, f"--file={folder / DOCKERFILE}", f"--tag={image}"]
        command = [program, "build", *form, *_pip_secrets(), *what, str(folder)]
        _run(command, timeout_minutes, "the image could not be built")
        push = _push(engine, repository, Path(scratch, "login"))
        mend = f" (`{repository.grant('writer', authenticate.member())}` lets you)" if repository.in_google else ""
        _run([program, *push, image], timeout_minutes, f"the image could not be pushed to {repository.host}{mend}")


def _pip_secrets() -> list[str]:
    """pip's settings on this machine, for where packages come by way of a proxy or a mirror: mounted while pip runs."""
    files = {
        "pip_conf": os.environ.get("PIP_CONFIG_FILE", "/etc/pip.conf"),
        "ca_bundle": os.environ.get("PIP_CERT", ""),
    }
    return [f"--secret=id={name},src={file}" for name, file in files.items() if Path(file).is_file()]


def _push(engine: str, repository: Repository, folder: Path) -> list[str]:
    """The engine's arguments for a push, with a token of this moment in a file: a build may outlast an earlier one."""
    token = repository.token()
    if token:
        told = base64.b64encode(f"oauth2accesstoken:{token}".encode()).decode()
        folder.mkdir(mode=0o700)
        content = {"auths": {repository.host: {"auth": told}}}
        (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    if engine == "docker":  # which speaks to loopback registries without TLS by itself
        return [*([f"--config={folder}"] if token else []), "push"]
    login = [f"--authfile={folder / 'config.json'}"] if token else []
    return ["push", *login, *(["--tls-verify=false"] if repository.is_loopback else [])]


def _run(command: Sequence[str], timeout_minutes: float, what: str) -> None:
    """Run an engine's command, its lines shown as they come; a `UserError` ends with the last of them."""
    process = subprocess.Popen(
        [*tied(signal.SIGTERM), *command],
        env={**child_environment(CLOUD, ENGINE), "DOCKER_BUILDKIT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    late = threading.Timer(timeout_minutes * 60, process.terminate)
    late.start()
    last: list[str] = []
    try:
        for line in process.stdout or ():
            if text := " ".join(line.split()):
                log.info("image: %s", text[:500])
                last = [*last, text][-LAST_LINES:]
        process.wait()
    finally:
        overdue = not late.is_alive()
        late.cancel()
        _end(process)
    if overdue:
        raise UserError(f"{what} within {timeout_minutes:g} minutes: raise images.timeout_minutes")
    if process.returncode:
        raise UserError(f"{what} (exit code {process.returncode}): {' | '.join(last) or 'it said nothing'}")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(KILLED_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
