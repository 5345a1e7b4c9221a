"""A bundle: the directory in which a policy travels from training to the robot.

    NAME/policy.json     the contract, and `files`: the SHA-256 of every other file
         policy.onnx     the graph, which carries the contract in its metadata; of a policy that
                         refines a sample, encode.onnx and refine.onnx in its place
         golden.npz      a recorded run (>= 32 steps, with a reset) that must replay
         training.yaml   the resolved configuration that made it
         README.md       the model card
         calibration.npz optional: the model of the dynamics that `calibrate` found
         policy.sig      optional: ed25519 signature of policy.json

Hashes detect corruption; only a verified signature says who made a bundle. Everything is read
once, hashed, and used from memory, so that what was checked is what runs.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robot_policies.contract import Contract
from robot_policies.signatures import load_public_keys, sign_bytes, verify_signature
from robot_policies.strict import ContractError, InputError, Violation, parse_json

GRAPH, ENCODE, REFINE = "policy.onnx", "encode.onnx", "refine.onnx"
CALIBRATION = "calibration.npz"
ZOO = "zoo:"
REQUIRED = ("golden.npz", "training.yaml", "README.md")
OPTIONAL = (CALIBRATION,)
MAX_FILE_BYTES = 1_000_000_000
MIN_GOLDEN_STEPS = 32

_COPY = "copy the whole bundle again from where it was exported"


@dataclass(frozen=True)
class Golden:
    """A recorded run of the graph, B environments side by side, used as its regression test."""

    reset: np.ndarray
    """[T] bool: the recurrent state was reset before this step (the first step always is)."""
    observation: np.ndarray
    """[T, B, To, Do] float32: assembled observation vectors."""
    action: np.ndarray
    """[T, B, Ta, Da] float32: the graph's raw output."""
    state: dict[str, np.ndarray] = field(default_factory=dict)
    """Output name -> [T, B, *shape] float32: the recurrent state after the step."""
    noise: dict[str, np.ndarray] = field(default_factory=dict)
    """Input name -> [T, B, *shape] float32."""

    def to_bytes(self) -> bytes:
        """Serialise as npz, with the same bytes for the same content."""
        arrays = {"reset": self.reset, "observation": self.observation, "action": self.action}
        arrays |= {f"state/{name}": value for name, value in self.state.items()}
        arrays |= {f"noise/{name}": value for name, value in self.noise.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @staticmethod
    def from_bytes(content: bytes, contract: Contract) -> Golden:
        """Read and check against the contract; raises ContractError with every violation."""
        arrays = _load_arrays("golden.npz", content)
        violations = list(_golden_violations(arrays, contract))
        if violations:
            raise ContractError(violations)
        return Golden(
            reset=arrays["reset"],
            observation=arrays["observation"],
            action=arrays["action"],
            state={state.output: arrays[f"state/{state.output}"] for state in contract.state},
            noise={noise.name: arrays[f"noise/{noise.name}"] for noise in contract.noise},
        )


@dataclass(frozen=True)
class PolicyBundle:
    """A bundle whose files were read and hashed (`read`), or have just been written (`write`)."""

    path: Path
    contract: Contract
    files: dict[str, str]
    """File name -> SHA-256."""
    content: dict[str, bytes] = field(repr=False)
    signed_by: str | None = None
    """The trusted public key (hex) whose signature was verified, if one was demanded."""

    @property
    def golden(self) -> Golden:
        """The recorded run (ContractError where it does not fit the contract)."""
        return Golden.from_bytes(self.content["golden.npz"], self.contract)


def graphs_of(contract: Contract) -> tuple[str, ...]:
    """The files that a contract's graphs are in."""
    return (GRAPH,) if contract.refinement is None else (ENCODE, REFINE)


def resolve(name: str | Path) -> Path:
    """Path of a bundle: a path is taken as it is, zoo:NAME is looked up in the zoo's folders.

    The user's own zoo comes first: what was imported there is what is meant.
    """
    if not str(name).startswith(ZOO):
        return Path(name)
    found = [folder / str(name).removeprefix(ZOO) for folder in zoo_folders()]
    for path in found:
        if (path / "policy.json").is_file():
            return path
    expected = "one of " + ", ".join(zoo_names()) if zoo_names() else "a bundle in the zoo"
    mend = "make zoo:raptor with `robot-policies import raptor`, or give the bundle's path"
    raise ContractError([Violation(str(name), expected, "no such bundle", mend)])


def destination(path: str | Path) -> Path:
    """Where `write` puts a bundle: a path is taken as it is, zoo:NAME is in the user's own zoo.

    Raises InputError where NAME is not a plain one.
    """
    if not str(path).startswith(ZOO):
        # "." and ".." have no name that could be exchanged.
        return Path(path) if Path(path).name not in ("", "..") else Path(path).resolve()
    name = str(path).removeprefix(ZOO)
    if Path(name).name != name or name.startswith("."):
        mend = "give a name without slashes that does not begin with a dot"
        raise InputError([Violation(str(path), "zoo:NAME", f"the name {name!r}", mend)])
    return zoo_folders()[0] / name


def zoo_folders() -> tuple[Path, Path]:
    """Folders of zoo bundles: the user's own, then those that came with the package."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "robot_policies" / "zoo", Path(__file__).parent / "zoo"


def zoo_names() -> list[str]:
    """Every zoo:NAME that can be loaded."""
    paths = [path for folder in zoo_folders() for path in folder.glob("*/policy.json")]
    # Names with a dot are those of bundles that are still being written.
    return sorted({f"{ZOO}{p.parent.name}" for p in paths if not p.parent.name.startswith(".")})


def read(name: str | Path, trusted_keys: Sequence[str | Path] = ()) -> PolicyBundle:
    """Read a bundle and check its hashes, its contract and, where keys are given, its signature.

    Args:
        name: a path or zoo:NAME.
        trusted_keys: ed25519 public keys (PEM files); if any is given, a signature by one of
            them is demanded.

    Raises:
        InputError: a key cannot be read.
        ContractError: with every violation.
    """
    load_public_keys(trusted_keys)
    path = resolve(name)
    content = read_files(path)
    document, files = split_policy(content["policy.json"])
    violations = list(hash_violations(files, content))
    signed_by = None
    try:
        signed_by = verify_signature(content, trusted_keys) if trusted_keys else None
    except ContractError as error:
        violations.extend(error.violations)
    try:
        contract = Contract.from_dict(document)
    except ContractError as error:
        raise ContractError([*error.violations, *violations]) from None
    if violations:
        raise ContractError(violations)
    hashes = require_written_form(content["policy.json"], contract, files)
    return PolicyBundle(path, contract, hashes, content, signed_by)


def write(
    path: str | Path,
    contract: Contract,
    files: Mapping[str, bytes],
    *,
    replace: bool = False,
    check: Callable[[Path], object] = read,
) -> PolicyBundle:
    """Write a bundle atomically: a crash leaves the old bundle or the new one, never half of one.

    Args:
        path: the bundle's directory, or zoo:NAME; an existing one is kept unless `replace`.
        contract: goes into policy.json together with the files' hashes.
        files: name -> content of every other file.
        replace: swap an existing bundle for the new one in one step.
        check: called with the complete bundle before it gets its name; raising keeps the old.

    Raises:
        FileExistsError: the path exists and `replace` is False, or is no bundle, or is a link.
        ContractError: the files are not those of a bundle, or `check` refused them.
    """
    refuse_overwrite(path, replace)
    target = destination(path)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the last step is a rename within one file system.
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, content in {**files, "policy.json": policy_json(contract, hashes)}.items():
            _write_synced(staging / name, content)
        staging.chmod(0o755)
        check(staging)
        _put_in_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return read(target)


def policy_json(contract: Contract, files: Mapping[str, str]) -> bytes:
    """The one byte form of policy.json for a contract and the hashes of its files."""
    document = json.loads(contract.to_json()) | {"files": dict(files)}
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def sign(name: str | Path, private_key: str | Path) -> Path:
    """Sign policy.json (and so, by their hashes, all files) with an ed25519 key in a PEM file.

    Raises InputError where the key cannot be read, ContractError where the bundle is refused.
    """
    bundle = read(name)
    signature = sign_bytes(bundle.content["policy.json"], private_key)
    folder = bundle.path.resolve()  # "." has no name
    target = folder / "policy.sig"
    # Beside the bundle: a crash must not leave an extra file inside it.
    staging = folder.with_name(f".{folder.name}.policy.sig")
    _write_synced(staging, signature)
    os.replace(staging, target)
    return target


# Reading.


def read_files(path: Path) -> dict[str, bytes]:
    """All files of the directory by name; ContractError where one is not a plain file."""
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        mend = "give the bundle's directory, or zoo:NAME"
        raise ContractError([Violation(str(path), "a bundle's directory", found, mend)])
    violations, content = [], {}
    for entry in sorted(path.iterdir()):
        if entry.is_symlink() or not entry.is_file():
            mend = "remove it: a bundle holds plain files only"
            violations.append(Violation(entry.name, "a plain file", "something else", mend))
        elif entry.stat().st_size > MAX_FILE_BYTES:
            expected = f"at most {MAX_FILE_BYTES} bytes"
            violations.append(Violation(entry.name, expected, f"{entry.stat().st_size}", _COPY))
        else:
            content[entry.name] = entry.read_bytes()
    if "policy.json" not in content:
        violations.append(Violation("policy.json", "the contract", "no such file", _COPY))
    if violations:
        raise ContractError(violations)
    return content


def split_policy(content: bytes) -> tuple[object, object]:
    """Parse policy.json into the contract's document and `files`; raises ContractError."""
    document = parse_json(content, "policy.json")
    files = document.pop("files", None) if isinstance(document, dict) else None
    return document, files


def require_written_form(content: bytes, contract: Contract, files: object) -> dict[str, str]:
    """Return `files`, or raise ContractError where policy.json was rewritten by other hands.

    So a flipped bit is seen even where it leaves every number as it was (1e-05 and 1E-05).
    """
    hashes = dict(files) if isinstance(files, dict) else {}
    written = policy_json(contract, hashes)
    if content != written:
        lines = zip(content.split(b"\n"), written.split(b"\n"), strict=False)
        number = next((n for n, (left, right) in enumerate(lines, 1) if left != right), 0)
        found = f"others, first in line {number}" if number else "more or fewer lines"
        expected = "the bytes that the exporter wrote"
        raise ContractError([Violation("policy.json", expected, found, _COPY)])
    return hashes


def hash_violations(files: object, content: Mapping[str, bytes]) -> Iterator[Violation]:
    """Compare the files with the hashes that policy.json lists; each violation names its file."""
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        mend = "write the bundle with `robot-policies export`"
        yield Violation("policy.json.files", "file name -> SHA-256", repr(files)[:80], mend)
        return
    graphs = (ENCODE, REFINE) if {ENCODE, REFINE} & files.keys() else (GRAPH,)
    for name in sorted({*graphs, *REQUIRED, *files}):
        if name not in files:
            yield Violation(f"policy.json.files.{name}", "its SHA-256", "nothing", _COPY)
        elif name not in (*graphs, *REQUIRED, *OPTIONAL):
            mend = "remove it: a bundle has no such file"
            yield Violation(f"policy.json.files.{name}", "a bundle's file", repr(name), mend)
        elif name not in content:
            yield Violation(name, f"a file with SHA-256 {files[name][:12]}...", "nothing", _COPY)
        elif (found := hashlib.sha256(content[name]).hexdigest()) != files[name]:
            expected = f"SHA-256 {files[name][:12]}..."
            yield Violation(name, expected, f"{found[:12]}...: the file was changed", _COPY)
    for name in sorted(content.keys() - files.keys() - {"policy.json", "policy.sig"}):
        mend = "remove it: weights and data outside the listed files are not checked"
        yield Violation(name, "only the files that policy.json lists", "an extra file", mend)


def _load_arrays(name: str, content: bytes) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # numpy and zipfile raise many kinds for bytes that are not npz
        found = f"{type(error).__name__}: {error}"
        raise ContractError([Violation(name, "an npz of plain arrays", found, _COPY)]) from None


def _golden_violations(
    arrays: Mapping[str, np.ndarray], contract: Contract
) -> Iterator[Violation]:
    action = arrays.get("action", np.zeros((0, 0)))
    steps, batch = action.shape[:2] if action.ndim >= 2 else (0, 0)
    shapes: dict[str, tuple[int, ...]] = {
        "reset": (steps,),
        "observation": (steps, batch, contract.observation_steps, contract.observation_size),
        "action": (steps, batch, contract.chunk.steps, contract.action_size),
    }
    shapes |= {f"state/{s.output}": (steps, batch, *s.shape) for s in contract.state}
    shapes |= {f"noise/{n.name}": (steps, batch, *n.shape) for n in contract.noise}
    mend = "export the policy again"
    for key in sorted(shapes.keys() | arrays.keys()):
        where = f"golden.npz {key}"
        kind = np.bool_ if key == "reset" else np.float32
        if key not in shapes:
            yield Violation(where, "no such array", "an extra array", mend)
        elif key not in arrays:
            yield Violation(where, f"an array {list(shapes[key])}", "nothing", mend)
        elif arrays[key].shape != shapes[key] or arrays[key].dtype != kind:
            found = f"{arrays[key].dtype} {list(arrays[key].shape)}"
            yield Violation(where, f"{np.dtype(kind)} {list(shapes[key])}", found, mend)
        elif not np.isfinite(arrays[key]).all():
            yield Violation(where, "finite numbers", "others", mend)
    if steps < MIN_GOLDEN_STEPS or batch < 1:
        yield Violation("golden.npz", f">= {MIN_GOLDEN_STEPS} steps", f"{steps}", mend)
    elif "reset" in arrays and arrays["reset"].shape == (steps,) and not arrays["reset"][0]:
        yield Violation("golden.npz reset", "a reset before the first step", "none", mend)


# Writing.


def refuse_overwrite(path: str | Path, replace: bool) -> None:
    """Raise FileExistsError unless `write` may use this path; cheap, so ask before long work."""
    target = destination(path)
    if target.is_symlink():
        mend = "give the path that it points to, or remove it"
        raise FileExistsError(f"{target} is a symbolic link; {mend}")
    if not target.exists():
        return
    if not replace:
        raise FileExistsError(f"{target} exists; give another path, or --replace to replace it")
    if not (target / "policy.json").is_file():
        raise FileExistsError(f"{target} exists and is no bundle; give another path")


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(staging: Path, target: Path) -> None:
    """Give the complete directory its name; an old one is exchanged for it in one system call."""
    if target.exists():
        _exchange(staging, target)
    else:
        os.rename(staging, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _exchange(left: Path, right: Path) -> None:
    """Swap two directories atomically (Linux renameat2 with RENAME_EXCHANGE)."""
    at_fdcwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_fdcwd, os.fsencode(left), at_fdcwd, os.fsencode(right), rename_exchange):
        number = ctypes.get_errno()
        hint = " (this file system cannot swap directories)" if number == errno.EINVAL else ""
        raise OSError(number, f"cannot replace {right}{hint}; remove it and write again")
