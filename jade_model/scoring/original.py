"""The original project's checkpoints: a bare or nested state dict of JadeCompact under names of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from jade_model.core.checkpoint import load_content, shown_keys
from jade_model.core.config import TASKS, Loss, ModelConfig
from jade_model.core.errors import CheckpointError
from jade_model.core.network import JadeCompact

_NESTED_KEYS = ("model_state_dict", "state_dict", "model")
# Parts of a name that tell tensors of one shape apart.
_STEMS = {
    "pointer": ("ptr", "pointer", "center", "loc"),
    "type": ("type", "class", "cls"),
    "span": ("span", "mask", "crf", "emission"),
    "countdown": ("count",),
}


def load_original(path: Path) -> JadeCompact:
    """Rebuild the original's network, in evaluation mode.

    A CRF's parameters tell which of its two arms it is. Weights are matched by shape (and, where two share
    one, by the task in their name), biases by their weight's name, the LSTM and the CRF by the endings that
    torch and pytorch-crf give them, sigmas by the task.

    Raises:
        CheckpointError: A tensor is missing, left over or ambiguous; the message names each.
    """
    content = load_content(path)
    for key in _NESTED_KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    inputs = [value for name, value in found.items() if name.endswith("weight_ih_l0") and value.ndim == 2]
    if len(inputs) != 1:
        raise CheckpointError(f"{path} holds {shown_keys(content)}; expected one LSTM weight '...weight_ih_l0'")
    loss: Loss = "crf" if any(name.endswith("start_transitions") for name in found) else "soft_span"
    num_units, num_features = inputs[0].shape[0] // 4, inputs[0].shape[1]
    model = JadeCompact(ModelConfig(hidden_size=num_units), loss=loss, num_features=num_features)
    model.load_state_dict(_Matcher(path, found).match(model.state_dict()), strict=True)
    return model.eval()


class _Matcher:
    """Takes the found tensors one by one and remembers what could not be placed."""

    def __init__(self, path: Path, found: dict[str, Tensor]) -> None:
        self.path, self.left = path, dict(found)
        self.missing: list[str] = []

    def match(self, ours: dict[str, Tensor]) -> dict[str, Tensor]:
        matched = {name: self._recurrent(name, value) for name, value in ours.items() if _is_recurrent(name)}
        for name, value in ours.items():
            if name.endswith(".weight"):
                module = name.removesuffix(".weight")
                theirs = self._linear(module, value)
                matched[name] = self._take(theirs, name, value)
                bias = f"{module}.bias"
                matched[bias] = self._take(theirs and theirs.removesuffix("weight") + "bias", bias, ours[bias])
        matched["log_sigma"] = torch.stack([self._sigma(task) for task in TASKS])
        if self.missing or self.left:
            unexpected = [f"{name} {tuple(value.shape)}" for name, value in self.left.items()]
            raise CheckpointError(
                f"{self.path} does not map onto JadeCompact; missing or ambiguous: "
                f"{', '.join(self.missing) or 'nothing'}; unexpected: {', '.join(unexpected) or 'nothing'}"
            )
        return matched

    def _recurrent(self, ours: str, value: Tensor) -> Tensor:
        leaf = ours.rpartition(".")[2]
        names = [name for name in self.left if name.rpartition(".")[2] == leaf]
        return self._take(names[0] if len(names) == 1 else None, ours, value)

    def _linear(self, module: str, value: Tensor) -> str | None:
        names = [name for name, item in self.left.items() if name.endswith("weight") and item.shape == value.shape]
        stems = _STEMS.get(module.removesuffix("_head"))
        if len(names) > 1 and stems is not None:
            names = [name for name in names if any(stem in name.lower() for stem in stems)]
        return names[0] if len(names) == 1 else None

    def _sigma(self, task: str) -> Tensor:
        names = [name for name, item in self.left.items() if item.numel() == 1 and _names_sigma(name, task)]
        return self._take(names[0] if len(names) == 1 else None, f"log_sigma.{task}", torch.zeros(()))

    def _take(self, theirs: str | None, ours: str, value: Tensor) -> Tensor:
        """Take theirs out; report ours as missing and stand in zeros, never returned, where there is none."""
        if theirs is None or theirs not in self.left or self.left[theirs].numel() != value.numel():
            self.missing.append(f"{ours} {tuple(value.shape)}")
            return torch.zeros_like(value)
        return self.left.pop(theirs).reshape(value.shape).to(value.dtype)


def _is_recurrent(name: str) -> bool:
    return name.startswith(("lstm.", "crf."))


def _names_sigma(name: str, task: str) -> bool:
    lowered = name.lower()
    return ("sigma" in lowered or "var" in lowered) and any(stem in lowered for stem in _STEMS[task])
