"""ed25519 signatures of policy.json: keys in PEM files, and the one byte form of policy.sig.

The package cryptography is loaded only where a key is given; a robot without keys needs none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robot_policies.strict import ContractError, InputError, Violation, parse_json

_MENDS = {
    "private": "make one: openssl genpkey -algorithm ed25519 -out private.pem",
    "public": "make it of the private one: openssl pkey -in private.pem -pubout -out public.pem",
}


def load_public_keys(paths: Sequence[str | Path]) -> list[Any]:
    """Read ed25519 public keys; InputError where a file is no such key."""
    return [_load_key(path, "public") for path in paths]


def sign_bytes(content: bytes, private_key: str | Path) -> bytes:
    """The content of policy.sig for a policy.json; InputError where the file is no private key."""
    key = _load_key(private_key, "private")
    return _signature_file(key.public_key(), key.sign(content))


def verify_signature(content: Mapping[str, bytes], trusted_keys: Sequence[str | Path]) -> str:
    """Return the trusted key (hex) that signed policy.json.

    Args:
        content: file name -> content of a bundle's files.
        trusted_keys: public keys (PEM files).

    Raises:
        InputError: a key cannot be read, or the package cryptography is missing.
        ContractError: no signature by one of the keys.
    """
    keys = load_public_keys(trusted_keys)
    if "policy.sig" not in content:
        raise ContractError([_unsigned("no signature")])
    try:
        document = parse_json(content["policy.sig"], "policy.sig")
        signature = bytes.fromhex(document["signature"])  # type: ignore[index]
    except (ContractError, ValueError, TypeError, KeyError):
        raise ContractError([_unsigned("something unreadable")]) from None
    for key in keys:
        if _is_by(key, signature, content["policy.json"]):
            if content["policy.sig"] != _signature_file(key, signature):
                break
            return key.public_bytes_raw().hex()
    found = "a signature by another key, or of another policy.json, or a changed file"
    raise ContractError([_unsigned(found)])


def _is_by(key: Any, signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _unsigned(found: str) -> Violation:
    mend = "sign it with `robot-policies sign`, by a key that this robot trusts"
    return Violation("policy.sig", "a signature by a trusted key", found, mend)


def _load_key(path: str | Path, kind: str) -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        mend = "pip install cryptography"
        raise InputError(
            [Violation("signature", "the package cryptography", "not installed", mend)]
        ) from None
    expected = f"an ed25519 {kind} key in PEM"
    try:
        content = Path(path).read_bytes()
        if kind == "private":
            key = serialization.load_pem_private_key(content, password=None)
        else:
            key = serialization.load_pem_public_key(content)
    except Exception as error:  # cryptography raises several kinds for bytes that are no key
        found = " ".join(str(error).split()) or type(error).__name__
        raise InputError([Violation(str(path), expected, found, _MENDS[kind])]) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        raise InputError([Violation(str(path), expected, "another kind of key", _MENDS[kind])])
    return key


def _signature_file(public_key: Any, signature: bytes) -> bytes:
    """The one byte form of policy.sig."""
    document = {
        "algorithm": "ed25519",
        "public_key": public_key.public_bytes_raw().hex(),
        "signature": signature.hex(),
    }
    return (json.dumps(document, indent=1) + "\n").encode()
