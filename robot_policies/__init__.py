"""Robot policies: a contract, a bundle, and what runs it onboard.

>>> from robot_policies import load_policy
>>> policy = load_policy("zoo:raptor")
>>> policy.reset(batch=1, seed=0)
>>> command = policy.step(signals)  # named signals [B, *shape] -> {"motors": [B, Ta, Da]}
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robot_policies.runtime import OnnxPolicy, load_policy
    from robot_policies.strict import ContractError

__all__ = ["ContractError", "OnnxPolicy", "load_policy"]


def __getattr__(name: str) -> Any:
    """Import late, so that reading a contract does not load ONNX Runtime."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "strict" if name == "ContractError" else "runtime"
    return getattr(import_module(f"robot_policies.{module}"), name)
