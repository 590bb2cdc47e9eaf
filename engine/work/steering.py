"""What a request wants done to the scores of each next token, and what the model itself thought of the chosen one.

Scores are a row of logits, a tensor of torch or an array of numpy; this file needs to know neither library's models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np


class Steering:
    """Penalties and biases as OpenAI's API defines them, and log-probabilities.

    ``logit[t] += bias[t] - frequency · n[t] - presence · (n[t] > 0)``, where n counts t in the answer so far; the
    prompt does not count. They come before temperature, top-k and top-p.

    Args:
        presence, frequency: penalties.
        bias: by token.
        looks: keep each row as the model gave it, for :meth:`likeliest`.
    """

    def __init__(
        self,
        presence: float = 0.0,
        frequency: float = 0.0,
        bias: Mapping[int, float] | None = None,
        looks: bool = False,
    ) -> None:
        self._presence, self._frequency = presence, frequency
        self._bias = dict(bias or {})
        self._looks = looks
        self._counts: Counter[int] = Counter()
        self._logps: np.ndarray | None = None

    def steer(self, scores: Any) -> Any:
        """Change a row of logits, shape (V,), in place, and return it."""
        if self._looks:
            row = (scores if isinstance(scores, np.ndarray) else scores.cpu().numpy()).astype(np.float64)
            self._logps = row - np.logaddexp.reduce(row)
        _add(scores, list(self._bias), list(self._bias.values()))
        if self._presence or self._frequency:
            amounts = [-self._presence - self._frequency * count for count in self._counts.values()]
            _add(scores, list(self._counts), amounts)
        return scores

    def note(self, token: int) -> None:
        """A token has been chosen, and counts from now on."""
        self._counts[token] += 1

    def logp(self, token: int) -> float:
        """Natural log of the probability that the model gave a token last, before anything was done to it."""
        return float(self._logps[token])

    def likeliest(self, count: int) -> list[int]:
        """The tokens that the model found likeliest last, the likeliest first."""
        return np.argsort(-self._logps, kind="stable")[:count].tolist()


def _add(scores: Any, ids: list[int], amounts: list[float]) -> None:
    if ids:
        scores[ids] += (
            np.asarray(amounts, scores.dtype) if isinstance(scores, np.ndarray) else scores.new_tensor(amounts)
        )
