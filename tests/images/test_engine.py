"""Building with an engine on the worker: the commands it is given, and how it is ended."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlapp import authenticate
from mlapp.errors import UserError
from mlapp.images import engine
from mlapp.images.context import Context
from mlapp.images.registry import Repository

CONTEXT = Context({"Dockerfile.training": b"FROM scratch\n", "mlapp/a.py": b"A = 1\n"}, "cpu")
LOOPBACK = Repository("127.0.0.1:5000/mlapp/training")
GOOGLE = Repository("europe-west4-docker.pkg.dev/my-project/mlapp/mlapp-training")
# Stands in for docker and buildah: writes down its arguments and the files that they name.
RECORDER = """#!{python}
import json, pathlib, sys
record = {{"arguments": sys.argv[1:], "files": {{}}}}
for argument in sys.argv[1:]:
    path = pathlib.Path(argument.rpartition("=")[2])
    for file in [path] if path.is_file() else path.rglob("*") if path.is_dir() else []:
        if file.is_file():
            record["files"][str(file)] = file.read_text()
with open({record!r}, "a") as stream:
    print(json.dumps(record), file=stream)
{then}
"""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts a recorder on the path as both engines, and another that reads what they were given."""
    record = tmp_path / "record"
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("PIP_CERT", raising=False)

    def install(then: str = "") -> Any:
        for name in ("docker", "buildah"):
            (tools / name).write_text(RECORDER.format(python=sys.executable, record=str(record), then=then))
            (tools / name).chmod(0o755)
        return lambda: [json.loads(line) for line in record.read_text().splitlines()]

    return install


def test_docker_builds_the_context_s_files_and_pushes_the_tag(recorded) -> None:
    calls = recorded()
    engine.build("docker", CONTEXT, LOOPBACK, 1)
    build, push = calls()
    folder = build["arguments"][-1]
    assert build["arguments"] == [
        "build",
        "--build-arg=VARIANT=cpu",
        f"--file={folder}/Dockerfile.training",
        f"--tag={LOOPBACK.uri}:{CONTEXT.tag}",
        folder,
    ]
    assert build["files"][f"{folder}/mlapp/a.py"] == "A = 1\n"
    assert push["arguments"] == ["push", f"{LOOPBACK.uri}:{CONTEXT.tag}"]
    assert not Path(folder).exists()


def test_buildah_keeps_docker_s_format_and_speaks_plainly_to_loopback(recorded) -> None:
    calls = recorded()
    engine.build("buildah", CONTEXT, LOOPBACK, 1)
    build, push = calls()
    assert build["arguments"][:3] == ["build", "--format=docker", "--layers"]
    assert push["arguments"] == ["push", "--tls-verify=false", f"{LOOPBACK.uri}:{CONTEXT.tag}"]


@pytest.mark.parametrize("name", ["docker", "buildah"])
def test_the_token_is_in_a_file_of_the_push_alone_and_in_no_argument(recorded, monkeypatch, name) -> None:
    monkeypatch.setattr(authenticate, "access_token", lambda: "a-token")
    monkeypatch.setattr(authenticate, "member", lambda: "user:me@example.com")
    calls = recorded()
    engine.build(name, CONTEXT, GOOGLE, 1)
    build, push = calls()
    secret = base64.b64encode(b"oauth2accesstoken:a-token").decode()
    assert secret not in json.dumps(build)
    assert "a-token" not in json.dumps([build, push])
    assert not any(secret in argument for argument in push["arguments"])
    ((file, content),) = push["files"].items()
    assert json.loads(content) == {"auths": {GOOGLE.host: {"auth": secret}}}
    assert not Path(file).exists()


def test_pip_s_settings_are_mounted_where_there_are_any(recorded, tmp_path, monkeypatch) -> None:
    conf, bundle = tmp_path / "pip.conf", tmp_path / "ca.crt"
    conf.write_text("[global]\n")
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    monkeypatch.setenv("PIP_CERT", str(bundle))
    calls = recorded()
    engine.build("buildah", CONTEXT, LOOPBACK, 1)
    secrets = [argument for argument in calls()[0]["arguments"] if argument.startswith("--secret")]
    assert secrets == [f"--secret=id=pip_conf,src={conf}", f"--secret=id=ca_bundle,src={bundle}"]


def test_a_build_that_fails_ends_with_the_engine_s_last_lines(recorded) -> None:
    calls = recorded("print('step 3'); print('no such package'); sys.exit(125)")
    with pytest.raises(UserError, match=r"could not be built \(exit code 125\): step 3 \| no such package$"):
        engine.build("docker", CONTEXT, LOOPBACK, 1)
    assert len(calls()) == 1


def test_a_push_that_is_refused_names_the_command_that_allows_it(recorded, monkeypatch) -> None:
    monkeypatch.setattr(authenticate, "access_token", lambda: "a-token")
    monkeypatch.setattr(authenticate, "member", lambda: "user:me@example.com")
    recorded("if 'push' in sys.argv: print('denied: uploadArtifacts'); sys.exit(1)")
    with pytest.raises(UserError, match=r"add-iam-policy-binding mlapp .*writer.*denied: uploadArtifacts$"):
        engine.build("docker", CONTEXT, GOOGLE, 1)


def test_an_engine_that_is_not_there_is_told_of(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no buildah .*apt-get install buildah.*images\.builder=cloud_build"):
        engine.build("buildah", CONTEXT, LOOPBACK, 1)


def test_a_build_that_takes_too_long_is_ended(recorded) -> None:
    recorded("import time; time.sleep(600)")
    with pytest.raises(UserError, match=r"within 0\.01 minutes: raise images\.timeout_minutes"):
        engine.build("docker", CONTEXT, LOOPBACK, 0.01)


def test_a_stage_that_is_stopped_ends_its_engine(recorded, tmp_path) -> None:
    """Given an engine that takes no notice of SIGTERM, it is gone before the stage's 4 s are over."""
    calls = recorded("import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True)")
    tool = tmp_path / "bin" / "docker"
    tool.write_text(
        f"{tool.read_text()}\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    script = (
        "import signal; from mlapp.errors import raise_terminated; signal.signal(signal.SIGTERM, raise_terminated)\n"
        "from mlapp.images import engine; from mlapp.images.context import Context\n"
        "from mlapp.images.registry import Repository\n"
        "engine.build('docker', Context({'Dockerfile.training': b''}, 'cpu'), Repository('127.0.0.1:1/a/b'), 1)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as stage:
        pid = _number_in(tmp_path / "pid", stage)
        began = time.monotonic()
        stage.send_signal(signal.SIGTERM)
        told = stage.communicate(timeout=20)[1]
    assert "Terminated" in told
    assert time.monotonic() - began < 4
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(calls()) == 1


def _number_in(file: Path, process: subprocess.Popen[str]) -> int:
    until = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(file.read_text())
