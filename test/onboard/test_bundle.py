"""A bundle: what was written is what is read, and a crash leaves the old one or the new one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from leg_policy import bundle_files, leg_contract, leg_graph

from robot_policies import bundle as bundles
from robot_policies import graph, load_policy
from robot_policies.strict import ContractError


def test_written_and_read_again(leg: Path) -> None:
    bundle = bundles.read(leg)
    assert bundle.contract == leg_contract()
    assert set(bundle.files) == {"policy.onnx", "golden.npz", "training.yaml", "README.md"}
    assert bundle.golden.action.shape == (64, 2, 1, 3)
    assert load_policy(leg).contract == bundle.contract


def test_the_same_content_gives_the_same_bytes(leg: Path, tmp_path: Path) -> None:
    contract = leg_contract()
    bundles.write(tmp_path / "again", contract, bundle_files(contract))
    for path in leg.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_existing_bundle_is_kept_unless_replaced(leg_copy: Path) -> None:
    other = leg_contract(name="other")
    with pytest.raises(FileExistsError, match="--replace"):
        bundles.write(leg_copy, other, bundle_files(other))
    assert bundles.read(leg_copy).contract.name == "leg"
    bundles.write(leg_copy, other, bundle_files(other), replace=True)
    assert bundles.read(leg_copy).contract.name == "other"
    assert [path.name for path in leg_copy.parent.iterdir()] == ["leg"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    contract = leg_contract()
    with pytest.raises(FileExistsError, match="no bundle"):
        bundles.write(tmp_path, contract, bundle_files(contract), replace=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_check_that_refuses_keeps_the_old_bundle(leg_copy: Path) -> None:
    def refuse(path: Path) -> None:
        assert bundles.read(path).contract.name == "other"
        raise RuntimeError("not good enough")

    other = leg_contract(name="other")
    with pytest.raises(RuntimeError):
        bundles.write(leg_copy, other, bundle_files(other), replace=True, check=refuse)
    assert bundles.read(leg_copy).contract.name == "leg"
    assert [path.name for path in leg_copy.parent.iterdir()] == ["leg"]


def test_zoo_names_are_looked_up(leg: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "robot_policies" / "zoo").mkdir(parents=True)
    (tmp_path / "robot_policies" / "zoo" / "leg").symlink_to(leg)
    assert bundles.read("zoo:leg").contract.name == "leg"
    with pytest.raises(ContractError, match="zoo:leg"):
        bundles.read("zoo:arm")


REPLACE_FOREVER = """
import sys
from robot_policies.bundle import read, write
target, *sources = sys.argv[1:]
bundles = [read(source) for source in sources]
files = [{name: bundle.content[name] for name in bundle.files} for bundle in bundles]
print("ready", flush=True)
while True:
    for bundle, content in zip(bundles, files):
        write(target, bundle.contract, content, replace=True)
"""


def test_killed_at_any_time_a_complete_bundle_is_left(leg_copy: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        contract = leg_contract(name=name)
        bundles.write(tmp_path / name, contract, bundle_files(contract))
    sources = [str(tmp_path / name) for name in ("old", "new")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    generator, found = random.Random(0), set()
    for _ in range(20):
        command = [sys.executable, "-c", REPLACE_FOREVER, str(leg_copy), *sources]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(generator.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
        found.add(load_policy(leg_copy).contract.name)
    assert found == {"old", "new"}  # it was replaced at all, and ended with either


# Signatures.


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public ed25519 key, in PEM files."""
    return make_keys(tmp_path, "team")


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}-private.pem", folder / f"{name}.pem"
    plain = form.NoEncryption()
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, plain))
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_a_signature_by_a_trusted_key_is_accepted(leg_copy: Path, keys, tmp_path: Path) -> None:
    private, public = keys
    _, other = make_keys(tmp_path, "other")
    bundles.sign(leg_copy, private)
    assert bundles.read(leg_copy, [other, public]).signed_by is not None
    assert bundles.read(leg_copy).signed_by is None  # nobody asked
    with pytest.raises(ContractError, match="another key"):
        bundles.read(leg_copy, [other])


def test_an_unsigned_bundle_is_refused_where_a_key_is_given(leg_copy: Path, keys) -> None:
    with pytest.raises(ContractError, match="no signature"):
        bundles.read(leg_copy, [keys[1]])


def test_a_signature_does_not_move_to_another_bundle(leg_copy: Path, keys, tmp_path) -> None:
    bundles.sign(leg_copy, keys[0])
    contract = leg_contract(name="other")
    bundles.write(tmp_path / "other", contract, bundle_files(contract, leg_graph(seed=1)))
    (tmp_path / "other" / "policy.sig").write_bytes((leg_copy / "policy.sig").read_bytes())
    with pytest.raises(ContractError, match=r"policy\.sig"):
        bundles.read(tmp_path / "other", [keys[1]])


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"signature": 3}', b'{"signature": "zz"}', b"["]
)
def test_an_unreadable_signature_is_refused(leg_copy: Path, keys, content: bytes) -> None:
    (leg_copy / "policy.sig").write_bytes(content)
    with pytest.raises(ContractError, match=r"policy\.sig"):
        bundles.read(leg_copy, [keys[1]])


def test_every_flipped_bit_of_a_signature_is_refused(leg_copy: Path, keys) -> None:
    content = bundles.sign(leg_copy, keys[0]).read_bytes()
    for index in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[index] ^= 1 << (index % 8)
        (leg_copy / "policy.sig").write_bytes(flipped)
        with pytest.raises(ContractError, match=r"policy\.sig"):
            bundles.read(leg_copy, [keys[1]])


def test_a_key_that_is_no_key_is_named(leg_copy: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("-----BEGIN NONSENSE-----")
    for act in (lambda: bundles.sign(leg_copy, wrong), lambda: bundles.read(leg_copy, [wrong])):
        with pytest.raises(ContractError, match=r"wrong\.pem"):
            act()
    assert not (leg_copy / "policy.sig").exists()


def test_a_bundle_is_signed_from_inside_its_folder(leg_copy: Path, keys, monkeypatch) -> None:
    monkeypatch.chdir(leg_copy)
    bundles.sign(".", keys[0])
    assert bundles.read(leg_copy, [keys[1]]).signed_by is not None


@pytest.mark.parametrize("target", ["leg", "nothing"])
@pytest.mark.parametrize("replace", [True, False])
def test_nothing_is_written_through_a_symbolic_link(
    leg_copy: Path, target: str, replace: bool
) -> None:
    link = leg_copy.parent / "link"
    link.symlink_to(leg_copy.parent / target)
    contract = leg_contract(name="other")
    with pytest.raises(FileExistsError, match="is a symbolic link"):
        bundles.write(link, contract, bundle_files(contract), replace=replace)
    assert bundles.read(leg_copy).contract.name == "leg"


def test_a_bundle_that_is_still_being_written_has_no_name(leg: Path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    shutil.copytree(leg, tmp_path / "robot_policies" / "zoo" / ".leg.a1b2c3")
    assert not [name for name in bundles.zoo_names() if name.startswith("zoo:.")]


def test_the_revision_of_a_strangers_checkout_is_not_ours(tmp_path: Path, monkeypatch) -> None:
    """Installed into an environment inside another project's repository."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    (tmp_path / "graph.py").touch()
    monkeypatch.setattr(graph, "__file__", str(tmp_path / "graph.py"))
    made = graph.provenance("here", "MIT", (), "")
    assert (made.git_revision, made.git_dirty) == ("unknown", False)
