"""No mutation of a valid bundle is accepted, and each is refused with a message that names it.

`rehashed` mutations are those of a careful attacker, or of a helpful hand: the hashes in
policy.json fit the spoiled files, so that something else has to notice.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest
from leg_policy import MEAN, STD, bundle_files, leg_contract, leg_graph, recorded, rehash
from onnx import TensorProto, helper, numpy_helper

from robot_policies import bundle as bundles
from robot_policies import load_policy
from robot_policies.graph import stamp
from robot_policies.strict import ContractError
from robot_policies.verify import verify

FILES = ("policy.json", "policy.onnx", "golden.npz", "training.yaml", "README.md")
Mutation = tuple[str, Callable[[Path], object], str]
"""What is done, how, and what the message must contain."""


def bit_flips(generator: random.Random, count: int) -> Iterator[Mutation]:
    for name in FILES:
        for _ in range(count):
            place, bit = generator.random(), generator.randrange(8)

            def flip(path: Path, name: str = name, place: float = place, bit: int = bit) -> None:
                content = bytearray((path / name).read_bytes())
                content[int(place * len(content))] ^= 1 << bit
                (path / name).write_bytes(content)

            # A flipped policy.json names the key, or the file whose hash it now has wrong.
            yield f"bit {bit} of {name} at {place}", flip, "" if name == "policy.json" else name


def broken_files() -> Iterator[Mutation]:
    for name in FILES:
        for share in (0.0, 0.3, 0.999):

            def truncate(path: Path, name: str = name, share: float = share) -> None:
                content = (path / name).read_bytes()
                (path / name).write_bytes(content[: int(share * len(content))])

            def link(path: Path, name: str = name) -> None:
                (path / name).rename(path.parent / name)
                (path / name).symlink_to(path.parent / name)

            def make_folder(path: Path, name: str = name) -> None:
                (path / name).unlink()
                (path / name).mkdir()

            yield f"{name} truncated to {share}", truncate, name
        yield f"{name} removed", lambda path, name=name: (path / name).unlink(), name
        yield f"{name} a symbolic link", link, name
        yield f"{name} a directory", make_folder, name
    for name in ("weights.bin", ".hidden", "calibration.npz", "policy.json~"):
        yield f"extra {name}", lambda path, name=name: (path / name).write_bytes(b"1"), name
    yield "fifo", lambda path: os.mkfifo(path / "pipe"), "pipe"


def json_edits(leg: Path) -> Iterator[Mutation]:
    """Every value changed, every key removed, a key added to every object; all rehashed."""
    document = json.loads((leg / "policy.json").read_text())
    for path, value in walk(document):
        if path[0] == "files":
            continue
        names = [key for key in path if isinstance(key, str)]
        for changed in others(value):
            yield f"{path} = {changed!r}", edit(path, changed), names[-1]
        if isinstance(path[-1], str):
            yield f"{path} removed", edit(path), names[-1]
        if isinstance(value, dict):
            yield f"{path} extended", edit((*path, "surplus"), 1), "surplus"


def walk(value, path: tuple = ()):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key), inner
        if isinstance(inner, dict | list):
            yield from walk(inner, (*path, key))


def others(value) -> list:
    """Values close to this one, of the same type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, float):
        return [float(np.nextafter(value, np.inf)), -value - 1.0]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, str):
        return [value + "x"]
    if isinstance(value, list) and len(value) > 1:
        return [value[:-1]] if value == value[::-1] else [value[:-1], value[::-1]]
    return [[value]] if value is None else []


def edit(path: tuple, *value) -> Callable[[Path], None]:
    """Set (or, without a value, delete) a key of policy.json."""

    def change(document) -> None:
        for key in path[:-1]:
            document = document[key]
        if value:
            document[path[-1]] = deepcopy(value[0])
        else:
            del document[path[-1]]

    return lambda folder: rehash(folder, change)


def text_edits() -> Iterator[Mutation]:
    """What a JSON parser would let pass: doubled keys, other spellings, NaN."""
    for key in ("name", "control_hz", "scale", "files", "frame"):

        def double(path: Path, key: str = key) -> None:
            text = (path / "policy.json").read_text()
            start = text.index(f'"{key}"')
            (path / "policy.json").write_text(f'{text[:start]}"{key}": 1, {text[start:]}')

        yield f"{key} doubled", double, f"duplicate key '{key}'"
    for old, new in (
        ("1e-05", "1E-05"),
        ("50.0", "5e1"),
        ('"leg"', '"\\u006ceg"'),
        ("\n", "\r\n"),
    ):

        def spell(path: Path, old: str = old, new: str = new) -> None:
            text = (path / "policy.json").read_text()
            assert old in text
            (path / "policy.json").write_bytes(text.replace(old, new, 1).encode())

        yield f"{old!r} written {new!r}", spell, "policy.json: expected the bytes"
    for word in ("NaN", "Infinity", "1e999"):

        def not_finite(path: Path, word: str = word) -> None:
            text = (path / "policy.json").read_text()
            (path / "policy.json").write_text(text.replace("50.0", word))

        yield f"control_hz {word}", not_finite, "finite"


def graphs() -> Iterator[Mutation]:
    """Other graphs in place of the right one; all rehashed."""
    contract = leg_contract()

    def put(model: onnx.ModelProto | bytes) -> Callable[[Path], None]:
        content = model if isinstance(model, bytes) else stamp(model, contract)

        def replace_graph(path: Path) -> None:
            (path / "policy.onnx").write_bytes(content)
            rehash(path)

        return replace_graph

    for seed in range(1, 6):
        yield f"other weights {seed}", put(leg_graph(seed)), "golden replay"
    other = leg_contract(name="other")
    yield "of another bundle", put(stamp(leg_graph(), other)), "name: expected other"
    yield "without a contract", put(leg_graph().SerializeToString()), "graph without a contract"
    for value in (np.nan, np.inf, -np.inf):
        for index in (0, 4, 8):
            for name, statistic in (("mean", MEAN), ("std", STD)):
                spoiled = statistic.copy()
                spoiled[index] = value
                yield (
                    f"{name}[{index}] = {value}",
                    put(leg_graph(**{name: spoiled})),
                    f"weight {name}",
                )
    centred = np.zeros_like(MEAN)
    centred[3] = -np.inf  # not an attention mask, though of nothing but 0 and -inf
    yield "mean = 0 but for one -inf", put(leg_graph(mean=centred)), "weight mean"
    for index in range(5):
        external = leg_graph()
        tensor = external.graph.initializer[index]
        onnx.external_data_helper.set_external_data(tensor, "weights.bin", 0, 4)
        tensor.ClearField("raw_data")
        yield f"external {tensor.name}", put(external), f"weight {tensor.name}"
    whole = stamp(leg_graph(), contract)
    for share in (0.0, 0.1, 0.5, 0.9):
        yield f"truncated {share}", put(whole[: int(share * len(whole))]), "policy.onnx"
    for name in ("observation", "state", "action", "next_state"):
        yield f"{name} renamed", put(renamed(name, f"{name}_2")), f"{name}_2"
    wide = leg_graph()
    wide.graph.input.append(helper.make_tensor_value_info("seed", TensorProto.FLOAT, [1]))
    yield "one more input", put(wide), "input seed"
    constant = leg_graph()
    node = helper.make_node("Constant", [], ["hidden"], value_floats=[1.0, float("nan")])
    constant.graph.node.insert(0, node)
    yield "NaN in a Constant", put(constant), "weight hidden"
    crash = leg_graph()
    crash.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([7, 1, 3]), "chunk"))
    yield "fails when run", put(crash), "golden replay"
    yield "of batch 1 only", put(leg_graph(batch=1)), "batch"


def renamed(old: str, new: str) -> onnx.ModelProto:
    model = leg_graph()
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for port in (*model.graph.input, *model.graph.output):
        port.name = new if port.name == old else port.name
    return model


def golden_edits(leg: Path) -> Iterator[Mutation]:
    with np.load(leg / "golden.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}

    def put(**changes) -> Callable[[Path], None]:
        content = {k: v for k, v in (arrays | changes).items() if v is not None}

        def replace_golden(path: Path) -> None:
            buffer = io.BytesIO()
            np.savez(buffer, **content)
            (path / "golden.npz").write_bytes(buffer.getvalue())
            rehash(path)

        return replace_golden

    for key, array in arrays.items():
        yield f"{key} removed", put(**{key: None}), f"golden.npz {key}"
        yield f"{key} shorter", put(**{key: array[:-1]}), "golden.npz"
        yield f"{key} as int8", put(**{key: array.astype(np.int8)}), f"golden.npz {key}"
        yield f"{key} as objects", put(**{key: array.astype(object)}), "golden.npz"
        if key == "reset":
            continue
        for value in (np.nan, np.inf):
            spoiled = array.copy()
            spoiled.flat[7] = value
            yield f"{key} {value}", put(**{key: spoiled}), f"golden.npz {key}"
        for shift in (1e-3, -0.5):
            yield f"{key} + {shift}", put(**{key: array + np.float32(shift)}), "golden replay"
    yield "an array more", put(surplus=arrays["action"]), "golden.npz surplus"
    yield "no reset", put(reset=np.zeros(64, bool)), "golden.npz reset"
    yield "short", put(**{k: v[:8] for k, v in arrays.items()}), "golden.npz: expected >= 32"


@pytest.fixture
def mutations(leg: Path) -> list[Mutation]:
    return [
        *bit_flips(random.Random(0), count=40),
        *broken_files(),
        *json_edits(leg),
        *text_edits(),
        *graphs(),
        *golden_edits(leg),
    ]


def test_every_mutation_is_refused_by_name(leg: Path, mutations, tmp_path: Path) -> None:
    assert load_policy(leg)  # what all of them spoil is valid
    refused = 0
    for index, (what, mutate, named) in enumerate(mutations):
        path = Path(shutil.copytree(leg, tmp_path / str(index) / "leg"))
        mutate(path)
        with pytest.raises(ContractError) as error:
            load_policy(path)
            pytest.fail(f"accepted: {what}")
        assert named in str(error.value), f"{what}: {named!r} is not in: {error.value}"
        for violation in error.value.violations:
            assert violation.where and violation.expected and violation.found and violation.mend
        report = verify(path, latency=False)
        assert report.refused and not report.ok, what
        assert named in "\n".join(map(str, report.violations)), what
        shutil.rmtree(path.parent)
        refused += 1
    print(f"{refused} mutated bundles, all refused")
    assert refused >= 500


def test_a_rehashed_bit_flip_in_the_graph_crashes_nothing(leg: Path, tmp_path: Path) -> None:
    """A low bit of a weight is within the tolerance: only a signature would notice that."""
    generator, accepted = random.Random(1), 0
    whole = (leg / "policy.onnx").read_bytes()
    path = Path(shutil.copytree(leg, tmp_path / "leg"))
    for _ in range(200):
        content = bytearray(whole)
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        (path / "policy.onnx").write_bytes(content)
        rehash(path)
        try:
            policy = load_policy(path)
        except ContractError:
            continue
        accepted += 1
        assert policy.contract == leg_contract()
    assert accepted < 100


def test_a_graph_without_a_normaliser_is_noticed_by_the_golden_run(tmp_path: Path) -> None:
    contract = leg_contract()
    lost = leg_graph(mean=np.zeros_like(MEAN), std=np.ones_like(STD))
    golden = recorded(stamp(leg_graph(), contract), contract)
    bundles.write(tmp_path / "leg", contract, bundle_files(contract, lost, golden))
    with pytest.raises(ContractError, match="golden replay"):
        load_policy(tmp_path / "leg")


def test_weights_never_come_from_another_file(leg_copy: Path, monkeypatch) -> None:
    """ONNX Runtime would take external data from the current directory."""
    model = leg_graph()
    tensor = next(t for t in model.graph.initializer if t.name == "W")
    Path(leg_copy.parent / "weights.bin").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin", 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    (leg_copy / "policy.onnx").write_bytes(stamp(model, leg_contract()))
    rehash(leg_copy)
    monkeypatch.chdir(leg_copy.parent)
    with pytest.raises(ContractError, match="external data"):
        load_policy(leg_copy)
