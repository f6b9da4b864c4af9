"""Real container tools on this machine: a base image, a registry, and a place to pull to and run in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import urllib3

from mlapp.death_signal import tied

# Debian's packages, and the program of each.
PACKAGES = {
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "mmdebstrap": "mmdebstrap",
}
# The name in Dockerfile.training. Where no public registry can be reached, a Debian of the same release and with the
# same Python minor version stands in for it, under its name and, being another image, a digest of its own.
BASE = "docker.io/library/python:3.11-slim-bookworm"
STAND_IN = [
    *("mmdebstrap", "--mode=root", "--variant=minbase"),
    "--include=python3,python3-pip,python3-venv,ca-certificates",
    '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED "$1"/etc/resolv.conf "$1"/etc/hostname',
    '--customize-hook=ln -sf python3 "$1"/usr/bin/python',
    "bookworm",
]
# Inside another container neither crun nor the default limits work.
RUN = ("--network=host", "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")


def lacking() -> str | None:
    """What this machine lacks for a container of our own; None if it lacks nothing."""
    missing = [package for package, program in PACKAGES.items() if not shutil.which(program)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install {' '.join(missing)}"
    return None if os.geteuid() == 0 else "building and running containers without an engine's daemon needs root here"


class Store:
    """Where images lie, apart from those of the machine; buildah and podman find it by their environment."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        conf = folder / "storage.conf"
        conf.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n', encoding="utf-8"
        )
        self.environ = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(conf),
            "BUILDAH_ISOLATION": "chroot",
        }

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def have_base(self) -> str:
        """Make the stand-in for the base image, unless it is there; returns its name with its digest."""
        if BASE not in self.call("buildah", "images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
            self._make_base()
        digest = self.call("buildah", "images", "--no-trunc", "--format", "{{.Digest}}", BASE)
        return f"{BASE.rpartition(':')[0]}@{digest}"

    def _make_base(self) -> None:
        archive = self.folder / "base.tar"
        self.call(*STAND_IN, str(archive), *debian_sources())
        container = self.call("buildah", "from", "scratch")
        self.call("buildah", "add", "--quiet", container, str(archive), "/")
        self.call("buildah", "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        self.call("buildah", "commit", "--quiet", "--rm", container, BASE)
        archive.unlink()

    def podman(self, *arguments: str) -> list[str]:
        return ["podman", "--runtime=runc", "--cgroup-manager=cgroupfs", *arguments]

    def run(self, image: str, stage: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
        """Run the image's own entry point, hardened, with these arguments."""
        command = self.podman("run", "--rm", *RUN, *HARDENED, *options, image, *stage)
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)

    def remove(self) -> None:
        subprocess.run(self.podman("rmi", "--all", "--force"), env=self.environ, capture_output=True, check=False)
        shutil.rmtree(self.folder)


def debian_sources() -> list[str]:
    """The machine's own sources of Debian packages, where it has them in a file of their own."""
    file = Path("/etc/apt/sources.list.d/debian.sources")
    return [str(file)] if file.exists() else []


@contextmanager
def registry(folder: Path, port: int) -> Iterator[str]:
    """A registry on loopback that keeps its images in a folder; yields HOST:PORT."""
    address = f"127.0.0.1:{port}"
    folder.mkdir(parents=True)
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}\n"
        f'http: {{addr: "{address}"}}\n',
        encoding="utf-8",
    )
    with (folder / "registry.log").open("wb") as log:
        command = [*tied(signal.SIGKILL), str(shutil.which("docker-registry")), "serve", str(settings)]
        with subprocess.Popen(command, stdout=log, stderr=log) as server:
            try:
                until = time.monotonic() + 20
                while not _answers(address):
                    assert server.poll() is None, f"the registry ended: {(folder / 'registry.log').read_text()}"
                    assert time.monotonic() < until, "the registry does not answer"
                    time.sleep(0.05)
                yield address
            finally:
                server.terminate()
                server.wait()
                shutil.rmtree(folder)


def _answers(address: str) -> bool:
    try:
        return urllib3.request("GET", f"http://{address}/v2/", retries=False, timeout=1).status == 200
    except urllib3.exceptions.HTTPError:
        return False
