"""The four claims of the paper, put to the rows that were measured: what holds here, with figures and intervals.

Each figure is a mean over slices with its 95 % bootstrap interval; "holds" means that the interval lies on the claim's
side of zero (or of the margin named), "fails" that it lies on the other side, "open" that it holds zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from steadymr.audit.intervals import Interval, bootstrap_mean, paired_tests

DIFFUSION = ("predictor_corrector", "diffusion", "dds")
SUPERVISED = ("unet", "varnet")
LOSS_MARGIN_DB = 1.0  #: an imperfection that costs less is no compromise
KURTOSIS_MARGIN = 1.0  #: a change that exceeds that of equal noise by more is not like noise
CENTROID_SHARE = 0.9  #: of that of equal noise, below which a change is smoother than noise

Row = dict[str, Any]


class Table:
    """The rows of one arm, by kind, surrogate, eps and method; one value for each slice."""

    def __init__(self, slices: Sequence[Row]) -> None:
        self._rows = {
            (
                one["slice"],
                row["kind"],
                row["source"],
                row["eps"] if row["kind"] != "imperfection" else 0,
                row["method"],
            ): row
            for one in slices
            for row in one["rows"]
        }
        self.numbers = sorted({key[0] for key in self._rows})
        self.methods = list(dict.fromkeys(key[4] for key in self._rows))
        self.epsilons = sorted({key[3] for key in self._rows if key[1] == "worst_case"})
        self.surrogates = sorted({key[2] for key in self._rows if key[1] == "worst_case"})
        self.imperfections = sorted({key[2] for key in self._rows if key[1] == "imperfection"})

    def values(self, kind: str, source: str, eps: float, method: str, of: Callable[[Row], float]) -> np.ndarray:
        return np.array([of(self._rows[n, kind, source, eps, method]) for n in self.numbers])

    def mean(self, kind: str, source: str, eps: float, method: str, name: str) -> Interval:
        return interval(self.values(kind, source, eps, method, lambda row: row[name]))

    def drop_db(self, kind: str, source: str, eps: float, method: str) -> np.ndarray:
        """How much worse than the same method's clean image, in dB."""
        return self.values("clean", "", 0.0, method, _psnr) - self.values(kind, source, eps, method, _psnr)

    def fakes(self, kind: str, source: str, eps: float, method: str) -> np.ndarray:
        return self.values(kind, source, eps, method, n_fakes)

    def transferred(self, method: str) -> list[str]:
        """Surrogates that are not the method itself."""
        return [name for name in self.surrogates if name != method]


def _psnr(row: Row) -> float:
    return float(row["psnr_db"])


def n_fakes(row: Row) -> float:
    """Structures that appeared or vanished, against the same method's clean image."""
    return float(row["n_appeared"] + row["n_vanished"])


def interval(values: Iterable[float]) -> Interval:
    return bootstrap_mean(list(values), np.random.default_rng(0))


def verdict(found: Interval, margin: float = 0.0) -> str:
    if found.n < 2:
        return "open"
    if found.low > margin:
        return "holds"
    return "fails" if found.high <= margin else "open"


def crafted(source: str, other: str) -> str:
    return f"crafted on {source}" + (" itself" if source == other else "")


def text(found: Interval) -> str:
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def claims(table: Table) -> list[dict[str, Any]]:
    """One entry for each statement that can hold or fail."""
    return [*_fake_tissue(table), *_noise_like(table), *_more_vulnerable(table), *_imperfections(table)]


def _entry(claim: int, statement: str, found: Interval, margin: float = 0.0) -> dict[str, Any]:
    return {
        "claim": claim,
        "statement": statement,
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "verdict": verdict(found, margin),
    }


def _fake_tissue(table: Table) -> Iterable[dict[str, Any]]:
    for method in _there(table, DIFFUSION):
        for source in table.transferred(method):
            for eps in table.epsilons:
                more = table.fakes("worst_case", source, eps, method) - table.fakes("gaussian", "", eps, method)
                statement = f"{method}: fake structures more than under equal noise, crafted on {source}, eps {eps:.0%}"
                yield _entry(1, statement, interval(more))


def _noise_like(table: Table) -> Iterable[dict[str, Any]]:
    largest = table.epsilons[-1]
    for method in _there(table, DIFFUSION):
        for other in _there(table, SUPERVISED):
            for source in table.surrogates:
                for name, sign, what in (("kurtosis", -1, "lower kurtosis"), ("centroid", 1, "higher frequencies")):
                    mine, theirs = (
                        table.values("worst_case", source, largest, m, lambda row, n=name: row[n])
                        for m in (method, other)
                    )
                    statement = (
                        f"{method}: change of {what} than {other}'s, {crafted(source, other)}, eps {largest:.0%}"
                    )
                    yield _entry(2, statement, interval(sign * (mine - theirs)))


def _more_vulnerable(table: Table) -> Iterable[dict[str, Any]]:
    """Fair under the other network's worst cases; harder to hold where the supervised network is attacked directly."""
    for method in _there(table, DIFFUSION):
        for other in _there(table, SUPERVISED):
            for source in table.surrogates:
                for eps in table.epsilons:
                    drops = [table.drop_db("worst_case", source, eps, name) for name in (method, other)]
                    statement = f"{method}: loses more dB than {other}, {crafted(source, other)}, eps {eps:.0%}"
                    (test,) = paired_tests({"mine": drops[0].tolist(), "theirs": drops[1].tolist()})
                    yield _entry(3, statement, interval(drops[0] - drops[1])) | {"p_value": test.p_value}


def _imperfections(table: Table) -> Iterable[dict[str, Any]]:
    for method in table.methods:
        for name in table.imperfections:
            drop = table.drop_db("imperfection", name, 0, method)
            yield _entry(4, f"{method}: loses more than 1 dB by {name}", interval(drop), LOSS_MARGIN_DB)


def onsets(table: Table) -> list[dict[str, Any]]:
    """For each method and surrogate, the smallest eps with fake structure, and with a change that looks like noise."""
    entries = []
    for method in table.methods:
        for source in table.surrogates:
            fake = [
                eps
                for eps in table.epsilons
                if verdict(
                    interval(table.fakes("worst_case", source, eps, method) - table.fakes("gaussian", "", eps, method))
                )
                == "holds"
            ]
            noisy = [eps for eps in table.epsilons if _like_noise(table, source, eps, method)]
            largest = table.epsilons[-1]
            entries.append(
                {
                    "method": method,
                    "surrogate": source,
                    "fake_from_eps": min(fake, default=None),
                    "noise_like_from_eps": min(noisy, default=None),
                    "kurtosis_at_largest": table.mean("worst_case", source, largest, method, "kurtosis").mean,
                    "centroid_at_largest": table.mean("worst_case", source, largest, method, "centroid").mean,
                    "kurtosis_of_equal_noise": table.mean("gaussian", "", largest, method, "kurtosis").mean,
                    "centroid_of_equal_noise": table.mean("gaussian", "", largest, method, "centroid").mean,
                }
            )
    return entries


def _like_noise(table: Table, source: str, eps: float, method: str) -> bool:
    """Whether the change has the distribution and the spectrum of what Gaussian noise of that norm does."""
    excess, share = (
        interval(
            combine(
                table.values("worst_case", source, eps, method, lambda row, n=name: row[n]),
                table.values("gaussian", "", eps, method, lambda row, n=name: row[n]),
            )
        )
        for name, combine in (("kurtosis", np.subtract), ("centroid", np.divide))
    )
    return excess.high < KURTOSIS_MARGIN and share.low > CENTROID_SHARE


def _there(table: Table, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in table.methods]
