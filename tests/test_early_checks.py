"""What the settings alone give away is refused when a run is configured, not after its training."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mlapp.code_version import closure_of
from mlapp.configure import configure, main
from mlapp.errors import UserError

ROOT = Path(__file__).parents[1]
PLACE = {"region": "europe-west4", "machine_type": "n2-standard-8"}
BUCKETS = {
    f"storage.{area}": f"gs://bucket/{area}" for area in ("raw", "processed", "models", "experiments", "registry")
}
IMAGE = f"host/image@sha256:{0:064}"
SPARSE = {"tuning.trials": 2, "tuning.trainers": ["distill"], "tuning.epochs": 1}
VERTEX = {**BUCKETS, "placement.runner": "vertex", "placement.places": [PLACE], "placement.image": IMAGE}


def refused(folder: Path, conf: dict[str, Any]) -> str:
    """The line that a run with this conf is refused with, nothing of it written."""
    with pytest.raises(UserError) as error:
        configure("quick", conf, str(folder / "run" / "config.json"))
    assert not (folder / "run").exists()
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 1500
    return line


def pem(path: Path, kind: str = "ec", public: Any = None) -> tuple[str, Any]:
    """A key in a file; the public half of ``public`` where that is given."""
    made: Any = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    if public:
        content = public.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    else:
        content = made.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(content)
    return str(path), made


def test_a_pair_of_keys_is_taken(tmp_path: Path) -> None:
    private, key = pem(tmp_path / "a.pem")
    public, _ = pem(tmp_path / "a.pub", public=key)
    conf = {"signing.private_key": private, "signing.public_key": public}
    configure("quick", conf, str(tmp_path / "run" / "config.json"))


def test_keys_that_cannot_sign_are_refused(tmp_path: Path) -> None:
    private, key = pem(tmp_path / "a.pem")
    public, _ = pem(tmp_path / "a.pub", public=key)
    other, _ = pem(tmp_path / "b.pem")
    weak, _ = pem(tmp_path / "c.pem", "rsa")
    (tmp_path / "text").write_text("no key")
    for conf, told in (
        ({"private_key": str(tmp_path / "gone.pem")}, "signing.private_key: there is no file"),
        ({"private_key": str(tmp_path)}, "signing.private_key: .* (is a folder|not a regular file)"),
        ({"private_key": weak}, "is not an elliptic-curve key"),
        ({"private_key": str(tmp_path / "text")}, "is no PEM key without a password"),
        ({"private_key": "gs://bucket/key.pem"}, "give a file on this machine, or a secret's name"),
        ({"private_key": other, "public_key": public}, "are not of one pair"),
        ({"private_key": private, "public_key": private}, "signing.public_key: .* is no PEM key"),
        ({"public_key": public}, "signing.public_key is set without signing.private_key"),
    ):
        line = refused(tmp_path, {f"signing.{name}": value for name, value in conf.items()})
        assert re.search(told, line), (told, line)


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"data.name": "parts"}, "no source is known for data.name=parts"),
        ({"data.source": "/x", "data.name": "p", "data.classes": ["a", "b", "a"]}, "data.classes names a twice"),
        ({"tuning.trials": 2, "tuning.space": {"dpth": {"kind": "whole", "low": 0, "high": 1}}}, "dpth is nothing to"),
        (
            {"tuning.trials": 2, "tuning.space": {"depth": {"kind": "whole", "low": 0, "high": 10**30}}},
            "tuning.space.depth",
        ),
        ({"tuning.trials": 2, "tuning.trainers": []}, "tuning.trainers is empty"),
        ({**SPARSE, "distillation.sparsity": 0.3}, "sparsity needs at least 2 epochs"),
        ({**SPARSE, "tuning.space": {"sparsity": {"kind": "choice", "of": [0.0, 0.3]}}}, "sparsity needs at least 2"),
        ({"distillation.widths": [0.5, -1.0]}, "distillation.widths.1: input should be greater than 0"),
        ({"pruning.sparsities": [0.3, 1.0]}, "pruning.sparsities.1: input should be less than 1"),
        ({"vetting.gates": {"accuracy": {"at_least": 95}}}, "accuracy takes a number from 0 to 1, not 95"),
        ({**VERTEX, "placement.places": []}, "placement.places is empty"),
        ({**VERTEX, "storage.raw": "data"}, r"storage.raw=data lie on this machine"),
        ({**VERTEX, "placement.image": None}, "vertex without an image"),
        ({**VERTEX, "placement.places": [{**PLACE, "replicas": 3}]}, "training.batch_size=128 does not divide among"),
        ({**VERTEX, "signing.private_key": "/key.pem"}, "signing.private_key is a file, which the job"),
    ],
)
def test_what_cannot_work_together_is_refused(tmp_path: Path, conf: dict[str, Any], told: str) -> None:
    assert told.replace(r"\.", ".") in refused(tmp_path, conf)


def test_all_of_it_is_told_at_once(tmp_path: Path) -> None:
    line = refused(tmp_path, {**VERTEX, "placement.places": [], "placement.image": None, "data.name": "parts"})
    assert line.count("; ") == 2


ODD = [
    *("foo://x/p.yaml", "memory://p.yaml", "http://127.0.0.1:1/p.yaml", "https://127.0.0.1:1/p.yaml"),
    *("github://org:repo@main/p.yaml", "simplecache::gs://b/p.yaml", "zip://p.yaml::gs://b/x.zip"),
    *("data:text/plain,a.yaml", "GS://bucket/p.yaml", "foo:/p.yaml", "a\0b.yaml", " "),
]


@pytest.mark.parametrize("address", ODD)
@pytest.mark.parametrize("name", ["vetting.policy", "storage.registry", "storage.raw", "signing.public_key", "preset"])
def test_an_odd_address_is_one_line(tmp_path: Path, name: str, address: str) -> None:
    refused(tmp_path, {name: address})


@pytest.mark.parametrize("address", [each for each in ODD if not each.startswith("http")])
def test_an_odd_source_is_one_line(tmp_path: Path, address: str) -> None:
    refused(tmp_path, {"data.name": "parts", "data.source": address})


def test_a_source_on_the_web_is_taken(tmp_path: Path) -> None:
    for source in ("http://127.0.0.1:1/x", "http://[::1]:1/x"):
        configure("quick", {"data.name": "parts", "data.source": source}, str(tmp_path / "config.json"))


@pytest.mark.parametrize("address", ["http://ada:s3cret@127.0.0.1/x", "HTTPS://ada:s3cret@[::1/", "http://s3cret@x"])
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path, address: str) -> None:
    told = refused(tmp_path, {"data.name": "parts", "data.source": address})
    assert "holds a user name or password" in told
    assert "s3cret" not in told


def huge(path: Path) -> None:
    path.write_text("# x\n" * 500_000)


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("/nowhere"),
    "link to itself": lambda path: path.symlink_to(path),
    "huge": huge,
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "unreadable numbers": lambda path: path.write_text(f"accuracy: {{at_least: {'9' * 5000}, otherwise: reject}}\n"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vetting.policy", "preset", "signing.private_key"])
def test_what_is_no_file_that_a_person_wrote_is_one_line(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "odd.yaml"
    KINDS[kind](path)
    refused(tmp_path, {name: str(path)})


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e400", "10" * 200, "0x" + "f" * 400, "[1]"])
def test_an_odd_bound_is_one_line(tmp_path: Path, number: str) -> None:
    policy = tmp_path / "odd.yaml"
    policy.write_text(f"accuracy: {{at_least: {number}, otherwise: reject}}\n")
    refused(tmp_path, {"vetting.policy": str(policy)})


def test_the_record_of_another_run_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a group that an earlier run had, then it is refused; the same run may be configured again."""

    def arguments(run: str, group: str, dag: str = "") -> list[str]:
        conf = {"storage.experiments": str(tmp_path), "tracking.group": group}
        return ["--conf", json.dumps(conf), "--day=2026-01-01", f"--run={run}", f"--dag={dag}"]

    main(arguments("a", "mine"))
    main(arguments("a", "mine"))
    main(arguments("a", "of-a-dag", "x"))
    kept = (tmp_path / "mine" / "config.json").read_text()
    for other in (arguments("b", "mine"), arguments("a", "of-a-dag", "y")):
        with pytest.raises(SystemExit) as stop:
            main(other)
        assert stop.value.code == 2
        assert "holds the record of the run a" in capsys.readouterr().err
    assert (tmp_path / "mine" / "config.json").read_text() == kept


# Every refusal of vetting and promotion by the function that raises it: why it cannot come earlier. Whoever adds one
# says why here, or refuses in `mlapp.early_checks` (from settings) or `mlapp.registry.comparable` (from data).
MADE = "it is about a file that the run itself made, and that somebody altered since"
MOVED = "the champion may move while the run goes on"
NOT_EARLIER = {
    "vetting/verdict.py:run": "by hand alone: the DAG always gives a baseline",
    "vetting/frontier.py:choose": "which candidates keep to the bounds is known once they are trained",
    "vetting/frontier.py:teacher_of": "by hand alone: the DAG always gives the teacher's result",
    "vetting/scorer.py:_open": MADE,
    "vetting/scorer.py:score": MADE,
    "vetting/verdict.py:_scores": MADE,
    "registry/promoter.py:run": "by hand alone: the DAG gives the very model that was vetted",
    "registry/promoter.py:refuse_stale": MOVED,
    "registry/promoter.py:_filed": MADE,
    "registry/promoter.py:fill": MADE,
    "registry/bundle.py:load": "also read early, by check_champion; " + MOVED,
    "registry/bundle.py:parse": "also read early, by check_champion; " + MOVED,
    "registry/bundle.py:whole": "also verified early, by check_champion; " + MOVED,
}
# The same of the modules that these two and the choice call, each for all of its refusals.
CALLED = {
    "mlapp/authenticate.py": "a secret is fetched only where it is used",
    "mlapp/dataset.py": MADE,
    "mlapp/policy.py": "read by configure too",
    "mlapp/quiet.py": "of a stage by hand, whose answer is written when all is done",
    "mlapp/result.py": MADE,
    "ml/xgboost_model.py": MADE,
    "registry/comparable.py": "called early too, by check_champion; " + MOVED,
    "registry/verified.py": "of list and show; a move notes no figures of a verdict that cannot be read",
    "registry/keys.py": "a key in a file is read by configure too, a secret only where it signs",
    "registry/signing.py": "a key in a file is read by configure too, a secret only where it signs",
    "registry/moves.py": "checked early too, by check_champion; " + MOVED,
    **{
        f"registry/{name}.py": "read early too, by check_champion; " + MOVED
        for name in ("files", "history", "judge", "pointer", "state", "trust")
    },
}


def refusals(path: Path) -> set[str]:
    """The functions of a module that raise a `UserError`."""
    found = set()
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and "UserError(" in ast.unparse(node):
            inside = [each for each in functions if each.lineno <= node.lineno <= (each.end_lineno or 0)]
            found.add(f"{path.parent.name}/{path.name}:{max(inside, key=lambda each: each.lineno).name}")
    return found


def test_every_late_refusal_says_why_it_is_late() -> None:
    registry = ROOT / "mlapp" / "registry"
    late = [*(ROOT / "mlapp" / "vetting").glob("*.py"), registry / "promoter.py", registry / "bundle.py"]
    assert set().union(*map(refusals, late)) == NOT_EARLIER.keys()


def test_every_refusal_of_what_they_call_says_why_it_is_late() -> None:
    """Given another module that vetting or promotion comes to call, then its refusals are looked at too."""
    stages = ("mlapp.vetting.selector", "mlapp.vetting.verdict", "mlapp.registry.promoter")
    called = {ROOT.joinpath(*name.split(".")).with_suffix(".py") for stage in stages for name in closure_of(stage)}
    refusing = {f"{path.parent.name}/{path.name}" for path in called if path.is_file() and refusals(path)}
    assert refusing - {name.split(":")[0] for name in NOT_EARLIER} == CALLED.keys()
