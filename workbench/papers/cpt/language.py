"""A character LSTM with quantised products, K models side by side, and the text that it reads.

Hochreiter and Schmidhuber (1997). Weights are quantised by row, characters' embeddings and the hidden state by time
step, and the errors of the gates; embedding, cell state and the last layer stay float32.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench import WorkbenchError
from workbench.papers.cpt import landscape
from workbench.papers.cpt.nets import Parameters, Precision
from workbench.quantize import quantize_activation, quantize_error, quantize_weight
from workbench.training import generator, train

if TYPE_CHECKING:
    from workbench.papers.cpt.experiment import Config

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,()\n#"
LENGTH = 13_936
"""Characters of the licence that are read: what Python 3.11 has. Later versions may append to it."""


def licence() -> Tensor:
    """The licence that ships with Python, as places in `ALPHABET`: lower case, anything else is ``#``, int64 [13936].

    Years and version numbers, in which one Python differs from the next, are thereby all the same.

    Raises:
        WorkbenchError: where this Python came without it.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    for path in (folder / "LICENSE.txt", folder / "LICENSE", folder.parent / "LICENSE.txt", folder.parent / "LICENSE"):
        if path.exists():
            text = path.read_text(encoding="utf-8")[:LENGTH].lower()
            if len(text) == LENGTH:
                return torch.tensor([ALPHABET.find(c) % len(ALPHABET) for c in text])
    raise WorkbenchError(f"no licence text beside the standard library in {folder}: install Python from conda or uv")


def digest() -> str:
    """First 16 hex digits of the sha256 over the text."""
    return hashlib.sha256(licence().numpy()).hexdigest()[:16]


@dataclass(frozen=True)
class CharLSTM:
    """``tokens [K, T, n]`` to scores of the next character, ``[K, T, n, V]``."""

    embedding: int = 16
    hidden: int = 40

    def init(self, generators: Sequence[torch.Generator]) -> Parameters:
        """Uniform as `torch.nn.LSTM`'s, the embedding normal; one generator a model."""
        V, H, E = len(ALPHABET), self.hidden, self.embedding
        shapes = {"input": (4 * H, E), "hidden": (4 * H, H), "bias": (4 * H,), "output": (V, H), "output.bias": (V,)}
        parameters = {"embedding": torch.stack([torch.randn(V, E, generator=g) for g in generators])}
        for name, shape in shapes.items():
            draws = torch.stack([torch.rand(*shape, generator=g) for g in generators])
            parameters[name] = (2 * draws - 1) / H**0.5
        return parameters

    def scores(self, parameters: Parameters, tokens: Tensor, precision: Precision) -> Tensor:
        """Scores, from a hidden state of zeros. Ranges are those of the batch, in evaluation too."""
        K, T, n = tokens.shape
        p, bits = parameters, precision.bits
        models = torch.arange(K).view(-1, 1, 1)
        # A time step has a range of its own, so that it is quantised as a model of its own.
        x = p["embedding"][models, tokens].flatten(0, 1)
        x = quantize_activation(x, bits.repeat_interleave(T)).view(K, T * n, -1)
        recurrent = quantize_weight(p["hidden"], bits).mT
        seen = (x @ quantize_weight(p["input"], bits).mT + p["bias"][:, None]).view(K, T, n, -1).unbind(1)
        h = c = x.new_zeros(K, n, self.hidden)
        states = []
        for gates in seen:
            gates = gates + quantize_activation(h, bits) @ recurrent
            gates = quantize_error(gates, precision.error_bits, precision.generators)
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        out = torch.stack(states, 1).flatten(1, 2) @ p["output"].mT + p["output.bias"][:, None]
        return out.view(K, T, n, -1)

    def loss(self, parameters: Parameters, windows: Tensor, precision: Precision) -> Tensor:
        """Mean bits a character, ``[K]``, of ``windows [K, T + 1, n]``: each character is told from those before."""
        scores = self.scores(parameters, windows[:, :-1], precision).flatten(0, 2)
        loss = F.cross_entropy(scores, windows[:, 1:].flatten(), reduction="none")
        return loss.view(len(windows), -1).mean(1) / torch.log(torch.tensor(2.0))


# --- training under many schedules at once -----------------------------------------------------------------------

TRAIN, TEST = slice(0, 3000), slice(LENGTH - 3000, LENGTH)
"""The two ends of the licence; between them lies what nobody reads."""
WINDOW, BATCH = 20, 16


def _windows(text: Tensor) -> Tensor:
    """The text in one pass: ``[WINDOW + 1, n]``, each window beginning with the last character of the one before."""
    count = (len(text) - 1) // WINDOW
    return torch.stack([text[WINDOW * k : WINDOW * k + WINDOW + 1] for k in range(count)], 1)


def train_schedules(seeds: Sequence[int], schedules: Mapping[str, Tensor], config: Config) -> tuple[Parameters, Tensor]:
    """Parameters of every arm on every seed, ordered by arm, then seed, and the losses ``[steps, K]``.

    ``schedules`` are bits ``[S, steps]`` by arm. Adam, the gradient of each model clipped to norm 1.
    """
    net, text, arms = CharLSTM(), licence()[TRAIN], len(schedules)
    own = net.init([generator(seed, "start") for seed in seeds])
    parameters = {name: value.repeat(arms, *[1] * (value.ndim - 1)) for name, value in own.items()}
    for value in parameters.values():
        value.requires_grad_()
    bits, losses = torch.cat([*schedules.values()]), []
    K, count = bits.shape
    places = [torch.randint(len(text) - WINDOW, (count, BATCH), generator=generator(s, "windows")) for s in seeds]
    places, reach = torch.stack(places).repeat(arms, 1, 1), torch.arange(WINDOW + 1)[:, None]
    errors = torch.full((K,), config.error_bits)
    generators = [generator(seed, "rounding") for _ in schedules for seed in seeds]
    optimiser = torch.optim.Adam(parameters.values(), config.language_lr)

    def loss(step: int) -> Tensor:
        rate = 0.1 if step >= 3 * count / 4 else 0.3 if step >= count / 2 else 1
        optimiser.param_groups[0]["lr"] = config.language_lr * rate
        windows = text[places[:, step, None] + reach]
        found = net.loss(parameters, windows, Precision(bits[:, step], errors, generators))
        losses.append(found.detach())
        return found

    def clip(step: int) -> None:
        norm = torch.stack([p.grad.flatten(1).square().sum(1) for p in parameters.values()]).sum(0).sqrt()
        for p in parameters.values():
            p.grad *= (1 / norm).clamp(max=1).view(-1, *[1] * (p.ndim - 1))

    train(loss, optimiser, count, before_step=clip, label="language")
    return {name: value.detach() for name, value in parameters.items()}, torch.stack(losses)


@torch.no_grad()
def measure(parameters: Parameters, seeds: Sequence[int], bits: Tensor, config: Config) -> dict[str, list[float]]:
    """Columns ``[K]`` of what is measured when the models work at ``bits [K]``; losses in bits a character."""
    net, text = CharLSTM(), licence()
    parts = {name: _windows(text[part]).expand(len(bits), -1, -1) for name, part in (("train", TRAIN), ("test", TEST))}
    precision = Precision(bits, bits, [])
    loss = lambda moved: net.loss(moved, parts["train"], precision)  # noqa: E731
    sharp = landscape.sharpness(loss, parameters, seeds, config.sharpness_size, config.sharpness_directions)
    columns = {"test_loss": net.loss(parameters, parts["test"], precision), "train_loss": loss(parameters)}
    return {name: value.tolist() for name, value in (columns | {"sharpness": sharp}).items()}
