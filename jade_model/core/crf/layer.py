"""A linear-chain CRF: drop-in for pytorch-crf's, with marginals, k-best paths, samples and constraints.

Values and gradients are exact, computed in float64 and returned in the emissions' dtype: on the CPU by a
numpy scan (`crf_scan`); on a GPU, under constraints, or where scores span too much for the scan, by a tree
(`tree`). Masks must be prefixes: pytorch-crf's likelihoods are wrong across gaps, so those are refused
here.

Legend: B windows, T bars, K tags, N paths a window.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, assert_never, get_args

import torch
from torch import Tensor, nn

from jade_model.core.crf.gradient import emissions_to_numpy, from_numpy, scan_log_likelihood
from jade_model.core.crf.inputs import (
    check_shapes,
    check_tags,
    lengths_of,
    to_numpy,
    without_forbidden,
    zero_masked,
)
from jade_model.core.crf.results import BestPaths, KBestPaths
from jade_model.core.crf.sampling import sample_paths
from jade_model.core.crf.scan import ChainScores, scan
from jade_model.core.crf.tree import NEVER, ChainTensors, path_score, tree_log_partition
from jade_model.core.crf.viterbi import best_paths, k_best_paths

Reduction = Literal["none", "sum", "mean", "token_mean"]

_NO_PATH = "the constraints leave some window without any path: allow more starts, transitions or ends"


class CRF(nn.Module):
    """Conditional random field over tag sequences (Lafferty, McCallum, Pereira, 2001).

    Parameters, their names and initial values, `forward` and `decode` are pytorch-crf's, so state dicts
    interchange. The other methods take emissions and masks in the same layout, and return their results batch
    first. On a GPU nothing waits for the device but decoding, and looking at masks and constraints.

    Args:
        num_tags: K, at least 1.
        batch_first: Whether emissions, tags and masks are [B, T, ...] rather than [T, B, ...].
        forbidden_starts: Tags that no path may start with.
        forbidden_transitions: Pairs (from, to) that no path may contain.
        forbidden_ends: Tags that no path may end with.

    Raises:
        ValueError: num_tags is below 1, or a constraint names a tag that is not there.
    """

    forbidden_starts_K: Tensor
    forbidden_transitions_KK: Tensor
    forbidden_ends_K: Tensor

    def __init__(
        self,
        num_tags: int,
        batch_first: bool = False,  # noqa: FBT001, FBT002 - pytorch-crf's signature
        *,
        forbidden_starts: Iterable[int] = (),
        forbidden_transitions: Iterable[tuple[int, int]] = (),
        forbidden_ends: Iterable[int] = (),
    ) -> None:
        if num_tags <= 0:
            raise ValueError(f"invalid number of tags: {num_tags}")
        super().__init__()
        self.num_tags = num_tags
        self.batch_first = batch_first
        self.start_transitions = nn.Parameter(torch.empty(num_tags))
        self.end_transitions = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))
        starts, ends, pairs = list(forbidden_starts), list(forbidden_ends), list(forbidden_transitions)
        named = {*starts, *ends, *(tag for pair in pairs for tag in pair)}
        if not named <= set(range(num_tags)):
            raise ValueError(f"constraints name tags {sorted(named)}; there are only 0 to {num_tags - 1}")
        self._constrained = bool(named)
        self._forbid("forbidden_starts_K", (num_tags,), [(tag,) for tag in starts])
        self._forbid("forbidden_transitions_KK", (num_tags, num_tags), pairs)
        self._forbid("forbidden_ends_K", (num_tags,), [(tag,) for tag in ends])
        self.reset_parameters()

    def _forbid(self, name: str, shape: tuple[int, ...], places: Iterable[tuple[int, ...]]) -> None:
        forbidden = torch.zeros(shape, dtype=torch.bool)
        for place in places:
            forbidden[place] = True
        self.register_buffer(name, forbidden, persistent=False)  # state dicts stay pytorch-crf's

    def reset_parameters(self) -> None:
        """Draw all parameters uniformly from -0.1 to 0.1."""
        nn.init.uniform_(self.start_transitions, -0.1, 0.1)
        nn.init.uniform_(self.end_transitions, -0.1, 0.1)
        nn.init.uniform_(self.transitions, -0.1, 0.1)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(num_tags={self.num_tags})"

    def forward(
        self, emissions: Tensor, tags: Tensor, mask: Tensor | None = None, reduction: Reduction = "sum"
    ) -> Tensor:
        """Compute the log-likelihood of tags given emissions.

        Args:
            emissions: Float [T, B, K], or [B, T, K] if batch_first.
            tags: Int64 in [0, K), [T, B] or [B, T]; anything on masked bars.
            mask: True on bars that count, shape of tags: a prefix of each window, of at least one bar.
            reduction: "none": each window's; "sum" over windows; "mean" over windows; "token_mean": the sum
                divided by the number of bars that count.

        Returns:
            Log-likelihood, nats, at most 0, of the emissions' dtype: [B] if reduction is "none", else a
            scalar.

        Raises:
            ValueError: Shapes differ, the mask has a gap or lacks a first bar, a tag is out of range (on the
                CPU; a GPU asserts), a given path is forbidden, or the reduction is unknown.
        """
        emissions_BTK, length_B = self._prepare(emissions, mask, tags)
        if reduction not in get_args(Reduction):
            raise ValueError(f"invalid reduction: {reduction}")
        tags_BT = zero_masked(tags if self.batch_first else tags.transpose(0, 1), length_B)
        if emissions.is_cpu:
            check_tags(tags_BT, self.num_tags)
        chain = self._scannable(emissions)
        if chain is not None:
            value_B = scan_log_likelihood(emissions_BTK, self._scores(), chain, tags_BT, to_numpy(length_B))
        else:
            path_B = path_score(emissions_BTK, tags_BT, self._allowed(), length_B)
            self._refuse_forbidden(path_B, "a given path is forbidden by the constraints: its likelihood is 0")
            value_B = (path_B - self._tree(emissions_BTK, length_B)).to(emissions.dtype)
        match reduction:
            case "none":
                return value_B
            case "sum":
                return value_B.sum()
            case "mean":
                return value_B.mean()
            case "token_mean":
                return value_B.sum() / (tags.numel() if length_B is None else length_B.sum())
            case _:
                assert_never(reduction)

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor | None = None) -> list[list[int]]:
        """Find the most probable tags of each window; arguments and errors as of log_partition.

        Returns:
            A list of tags for each window, as long as its mask.
        """
        path_BT, length_B = self._best(emissions, mask)
        paths: list[list[int]] = path_BT.numpy().tolist()
        if length_B is None:
            return paths
        return [path[:length] for path, length in zip(paths, length_B.tolist(), strict=True)]

    def log_partition(self, emissions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sum over all paths.

        Args:
            emissions: Float [T, B, K], or [B, T, K] if batch_first.
            mask: True on bars that count, [T, B] or [B, T]: a prefix of each window, of at least one bar.

        Returns:
            Log of the sum of exp(score) over all paths, nats, [B]. Its gradient is the expected counts.

        Raises:
            ValueError: Shapes differ, the mask has a gap or lacks a first bar, or constraints leave no path.
        """
        emissions_BTK, length_B = self._prepare(emissions, mask)
        chain = self._scannable(emissions)
        if chain is not None:
            return -scan_log_likelihood(emissions_BTK, self._scores(), chain, None, to_numpy(length_B))
        return self._tree(emissions_BTK, length_B).to(emissions.dtype)

    @torch.no_grad()
    def marginals(self, emissions: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Compute each bar's posterior over tags (forward-backward); not differentiable.

        Args:
            emissions: Float [T, B, K], or [B, T, K] if batch_first.
            mask: True on bars that count, [T, B] or [B, T]: a prefix of each window, of at least one bar.
            temperature: What every score is divided by, > 0.

        Returns:
            P(tag at bar), [B, T, K], of the emissions' dtype; sums to 1 over tags, and is 0 on masked bars.

        Raises:
            ValueError: As in log_partition, or the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        emissions_BTK, length_B = self._prepare(emissions, mask)
        chain = self._scannable(emissions, temperature)
        if chain is not None:
            lengths = to_numpy(length_B)
            _, posterior = scan(emissions_to_numpy(emissions_BTK, lengths) / temperature, chain, lengths)
            return from_numpy(posterior.marginals_TKB.transpose(2, 0, 1), emissions.dtype)
        with torch.enable_grad():
            cold_BTK = (emissions_BTK.double() / temperature).requires_grad_()
            (marginals_BTK,) = torch.autograd.grad(self._tree(cold_BTK, length_B, temperature).sum(), cold_BTK)
        return marginals_BTK.to(emissions.dtype)

    @torch.no_grad()
    def viterbi(self, emissions: Tensor, mask: Tensor | None = None) -> BestPaths:
        """Find the best path of each window; arguments and errors as of log_partition.

        A GPU's emissions are decoded on the CPU: one copy each way.
        """
        path_BT, length_B = self._best(emissions, mask)
        path_BT = path_BT.to(emissions.device, torch.int64)
        emissions_BTK = emissions if self.batch_first else emissions.transpose(0, 1)
        score_B, none_B = (
            without_forbidden(path_score(emissions_BTK, tags_BT, self._allowed(), length_B))
            for tags_BT in (path_BT, torch.zeros_like(path_BT))
        )
        dtype = emissions.dtype
        return BestPaths(path_BT, score_B.to(dtype), (score_B - none_B).clamp(min=0).to(dtype))

    @torch.no_grad()
    def k_best(self, emissions: Tensor, k: int, mask: Tensor | None = None) -> KBestPaths:
        """Find the k best paths of each window, k at least 1; otherwise as viterbi."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        emissions_BTK, length_B = self._prepare(emissions, mask)
        lengths = to_numpy(length_B)
        path_BNT, score_BN = k_best_paths(emissions_to_numpy(emissions_BTK, lengths), self._chain(), lengths, k)
        scores = without_forbidden(torch.from_numpy(score_BN)).to(emissions.device, emissions.dtype)
        return KBestPaths(torch.from_numpy(path_BNT).to(emissions.device), scores)

    @torch.no_grad()
    def sample(
        self, emissions: Tensor, n: int, generator: torch.Generator | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Draw n independent paths of each window from the posterior, n at least 1.

        Arguments and errors otherwise as of log_partition; the generator is of the emissions' device.

        Returns:
            Tags, int64 [B, N, T]; 0 on masked bars.
        """
        if n < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        emissions_BTK, length_B = self._prepare(emissions, mask)
        inside_BTK = zero_masked(emissions_BTK, length_B).double()
        if self._constrained:
            self._tree(inside_BTK, length_B)  # refuses windows without any path
        return sample_paths(inside_BTK, self._allowed(), length_B, num_paths=n, generator=generator)

    def path_score(self, emissions: Tensor, tags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score given paths without normalising; arguments and errors as of forward.

        Returns:
            Log score, nats, [B]; minus infinity for forbidden paths. Less the log partition, the
            log-likelihood.
        """
        emissions_BTK, length_B = self._prepare(emissions, mask, tags)
        tags_BT = zero_masked(tags if self.batch_first else tags.transpose(0, 1), length_B)
        return without_forbidden(path_score(emissions_BTK, tags_BT, self._allowed(), length_B)).to(emissions.dtype)

    def _best(self, emissions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return best paths, of any integer type and on the CPU, and the windows' lengths."""
        emissions_BTK, length_B = self._prepare(emissions, mask)
        lengths = to_numpy(length_B)
        path_TB = best_paths(emissions_to_numpy(emissions_BTK, lengths), self._chain(), lengths)
        path_BT = torch.from_numpy(path_TB).t().contiguous()  # numpy takes seven times as long to transpose
        if self._constrained:
            path_B = path_score(emissions_BTK, path_BT.to(emissions.device), self._allowed(), length_B)
            self._refuse_forbidden(path_B, _NO_PATH)
        return path_BT, length_B

    def _prepare(
        self, emissions: Tensor, mask: Tensor | None, tags: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Check the input; return emissions batch first, and lengths, or None if all bars count."""
        check_shapes(emissions, tags, mask, num_tags=self.num_tags, batch_first=self.batch_first)
        if self.batch_first:
            return emissions, lengths_of(mask)
        return emissions.transpose(0, 1), lengths_of(None if mask is None else mask.transpose(0, 1))

    def _tree(self, emissions_BTK: Tensor, length_B: Tensor | None, temperature: float = 1.0) -> Tensor:
        chain = ChainTensors(*(scores / temperature for scores in self._allowed()))
        total_B = tree_log_partition(zero_masked(emissions_BTK, length_B).double(), chain, length_B)
        self._refuse_forbidden(total_B, _NO_PATH)
        return total_B

    def _refuse_forbidden(self, score_B: Tensor, message: str) -> None:
        """Raise if a score holds something forbidden; without constraints nothing is looked at, nor waited for."""
        if self._constrained and (score_B < NEVER / 2).any():
            raise ValueError(message)

    def _scores(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.start_transitions, self.transitions, self.end_transitions

    def _allowed(self) -> ChainTensors:
        """Return the parameters in float64, NEVER where forbidden."""
        start_K, transitions_KK, end_K = (scores.double() for scores in self._scores())
        if self._constrained:
            start_K = start_K.masked_fill(self.forbidden_starts_K, NEVER)
            transitions_KK = transitions_KK.masked_fill(self.forbidden_transitions_KK, NEVER)
            end_K = end_K.masked_fill(self.forbidden_ends_K, NEVER)
        return ChainTensors(start_K, transitions_KK, end_K)

    def _chain(self, temperature: float = 1.0) -> ChainScores:
        return ChainScores(*(scores.detach().cpu().numpy() / temperature for scores in self._allowed()))

    def _scannable(self, emissions: Tensor, temperature: float = 1.0) -> ChainScores | None:
        """Return the scores in numpy if the scan is exact for them, else None: then the tree must do."""
        if self._constrained or not emissions.is_cpu:
            return None
        chain = self._chain(temperature)
        return chain if chain.fits() else None
