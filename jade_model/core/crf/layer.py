"""A linear-chain CRF: pytorch-crf's interface, with marginals and margins, exact in float64, and quick.

Values and gradients are computed in float64 and returned in the emissions' dtype: on the CPU by a numpy scan (`scan`);
on a GPU, or where scores span too much for the scan, by a tree (`tree`). Masks must be prefixes: pytorch-crf's
likelihoods are wrong across gaps, so those are refused here.

Legend: B windows, T bars, K tags.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, assert_never, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jade_model.core.crf.scan import ChainScores, emissions_to_numpy, from_numpy, scan, scan_log_likelihood
from jade_model.core.crf.tree import NEVER, ChainTensors, path_score, tree_log_partition
from jade_model.core.crf.viterbi import best_paths

Reduction = Literal["none", "sum", "mean", "token_mean"]


class BestPaths(NamedTuple):
    """The best path of each window.

    Attributes:
        paths_BT: Tags, int64; 0 on masked bars.
        margin_B: log P(best path) - log P(tag 0 throughout), nats, at least 0; infinite if the latter is impossible.
    """

    paths_BT: Tensor
    margin_B: Tensor


class CRF(nn.Module):
    """Conditional random field over tag sequences (Lafferty, McCallum, Pereira, 2001).

    Parameters, their names and initial values, `forward` and `decode` are pytorch-crf's, so state dicts interchange.
    A parameter may be minus infinity, which forbids what it stands for. On a GPU nothing waits for the device but
    decoding, and looking at masks.

    Args:
        num_tags: K, at least 1.
        batch_first: Whether emissions, tags and masks are [B, T, ...] rather than [T, B, ...].

    Raises:
        ValueError: num_tags is below 1.
    """

    def __init__(
        self,
        num_tags: int,
        batch_first: bool = False,  # noqa: FBT001, FBT002 - pytorch-crf's signature
    ) -> None:
        if num_tags <= 0:
            raise ValueError(f"invalid number of tags: {num_tags}")
        super().__init__()
        self.num_tags = num_tags
        self.batch_first = batch_first
        self.start_transitions = nn.Parameter(torch.empty(num_tags))
        self.end_transitions = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))
        self.reset_parameters()

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
            tags: Integers in [0, K), [T, B] or [B, T]; anything on masked bars.
            mask: True on bars that count, shape of tags: a prefix of each window, of at least one bar.
            reduction: "none": each window's; "sum" over windows; "mean" over windows; "token_mean": the sum
                divided by the number of bars that count.

        Returns:
            Log-likelihood, nats, at most 0, minus infinity for an impossible path, of the emissions' dtype: [B] if
            reduction is "none", else a scalar.

        Raises:
            ValueError: Shapes differ, the mask has a gap or lacks a first bar, a tag is out of range (on the
                CPU; a GPU asserts), or the reduction is unknown.
        """
        emissions_BTK, length_B = self._prepare(emissions, mask, tags)
        if reduction not in get_args(Reduction):
            raise ValueError(f"invalid reduction: {reduction}")
        # A narrower type would overflow where places in a flattened array are computed from tags.
        tags_BT = zero_masked((tags if self.batch_first else tags.transpose(0, 1)).long(), length_B)
        if emissions.is_cpu:
            check_tags(tags_BT, self.num_tags)
        chain = self._scannable(emissions)
        if chain is not None:
            value_B = scan_log_likelihood(emissions_BTK, self._chain_parameters(), chain, tags_BT, _lengths(length_B))
        else:
            path_B = path_score(emissions_BTK, tags_BT, self._scores(), length_B)
            value_B = path_B - self._tree(emissions_BTK, length_B)
            value_B = value_B.masked_fill(path_B < NEVER / 2, -torch.inf).to(emissions.dtype)
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
        """Find the most probable tags of each window; arguments and errors as of marginals.

        Returns:
            A list of tags for each window, as long as its mask.
        """
        path_BT, length_B = self._best(emissions, mask)
        paths: list[list[int]] = path_BT.numpy().tolist()
        if length_B is None:
            return paths
        return [path[:length] for path, length in zip(paths, length_B.tolist(), strict=True)]

    @torch.no_grad()
    def marginals(self, emissions: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Compute each bar's posterior over tags (forward-backward); not differentiable.

        Args:
            emissions: Float [T, B, K], or [B, T, K] if batch_first.
            mask: True on bars that count, [T, B] or [B, T]: a prefix of each window, of at least one bar.
            temperature: What every score is divided by, > 0.

        Returns:
            P(tag at bar), [B, T, K], of the emissions' dtype; sums to 1 over tags, is 0 on masked bars, and NaN in
            windows of which no path is possible.

        Raises:
            ValueError: Shapes differ, the mask has a gap or lacks a first bar, or the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        emissions_BTK, length_B = self._prepare(emissions, mask)
        chain = self._scannable(emissions, temperature)
        if chain is not None:
            lengths = _lengths(length_B)
            _, posterior = scan(emissions_to_numpy(emissions_BTK, lengths) / temperature, chain, lengths)
            return from_numpy(posterior.marginals_TKB.transpose(2, 0, 1), emissions.dtype)
        with torch.enable_grad():
            cold_BTK = (emissions_BTK.double() / temperature).requires_grad_()
            total_B = self._tree(cold_BTK, length_B, temperature)
            (marginals_BTK,) = torch.autograd.grad(total_B.sum(), cold_BTK)
        return marginals_BTK.masked_fill(total_B[:, None, None] < NEVER / 2, torch.nan).to(emissions.dtype)

    @torch.no_grad()
    def viterbi(self, emissions: Tensor, mask: Tensor | None = None) -> BestPaths:
        """Find the best path of each window and its margin; arguments and errors as of marginals.

        A GPU's emissions are decoded on the CPU: one copy each way.
        """
        path_BT, length_B = self._best(emissions, mask)
        path_BT = path_BT.to(emissions.device, torch.int64)
        emissions_BTK = emissions if self.batch_first else emissions.transpose(0, 1)
        score_B, none_B = (
            path_score(emissions_BTK, tags_BT, self._scores(), length_B)
            for tags_BT in (path_BT, torch.zeros_like(path_BT))
        )
        margin_B = (score_B - none_B).clamp(min=0).masked_fill(none_B < NEVER / 2, torch.inf)
        return BestPaths(path_BT, margin_B.to(emissions.dtype))

    def _best(self, emissions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return best paths, of any integer type and on the CPU, and the windows' lengths."""
        emissions_BTK, length_B = self._prepare(emissions, mask)
        lengths = _lengths(length_B)
        path_TB = best_paths(emissions_to_numpy(emissions_BTK, lengths), self._chain(), lengths)
        return torch.from_numpy(path_TB).t().contiguous(), length_B  # numpy takes seven times as long to transpose

    def _prepare(
        self, emissions: Tensor, mask: Tensor | None, tags: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Check the input; return emissions batch first, and lengths, or None if all bars count."""
        check_shapes(emissions, tags, mask, num_tags=self.num_tags, batch_first=self.batch_first)
        if self.batch_first:
            return emissions, lengths_of(mask)
        return emissions.transpose(0, 1), lengths_of(None if mask is None else mask.transpose(0, 1))

    def _tree(self, emissions_BTK: Tensor, length_B: Tensor | None, temperature: float = 1.0) -> Tensor:
        chain = ChainTensors(*(scores / temperature for scores in self._scores()))
        return tree_log_partition(zero_masked(emissions_BTK, length_B).double(), chain, length_B)

    def _chain_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.start_transitions, self.transitions, self.end_transitions

    def _scores(self) -> ChainTensors:
        """Return the parameters in float64, NEVER in the place of minus infinity."""
        return ChainTensors(*(scores.double().clamp(min=NEVER) for scores in self._chain_parameters()))

    def _chain(self, temperature: float = 1.0) -> ChainScores:
        return ChainScores(*(scores.detach().cpu().numpy() / temperature for scores in self._scores()))

    def _scannable(self, emissions: Tensor, temperature: float = 1.0) -> ChainScores | None:
        """Return the scores in numpy if the scan is exact for them, else None: then the tree must do."""
        # What is compiled has to be torch throughout.
        if not emissions.is_cpu or torch.compiler.is_compiling():
            return None
        chain = self._chain(temperature)
        return chain if chain.fits() else None


def check_shapes(
    emissions: Tensor, tags: Tensor | None, mask: Tensor | None, *, num_tags: int, batch_first: bool
) -> None:
    """Refuse what pytorch-crf refuses, in its words, and windows without bars.

    Raises:
        ValueError: Dimensions or shapes differ from what is expected, or a window's first bar is masked.
    """
    if emissions.dim() != 3:
        raise ValueError(f"emissions must have dimension of 3, got {emissions.dim()}")
    if emissions.shape[2] != num_tags:
        raise ValueError(f"expected last dimension of emissions is {num_tags}, got {emissions.shape[2]}")
    if emissions.shape[1 if batch_first else 0] == 0:
        raise ValueError(f"emissions must have at least one bar, got shape {tuple(emissions.shape)}")
    for name, given in (("tags", tags), ("mask", mask)):
        if given is not None and given.shape != emissions.shape[:2]:
            raise ValueError(
                f"the first two dimensions of emissions and {name} must match, "
                f"got {tuple(emissions.shape[:2])} and {tuple(given.shape)}"
            )
    if mask is not None and not (mask[:, 0] if batch_first else mask[0]).all():
        raise ValueError("mask of the first timestep must all be on")


def lengths_of(mask_BT: Tensor | None) -> Tensor | None:
    """Count each window's bars; None if all bars of all windows count.

    Raises:
        ValueError: A bar counts after one that does not.
    """
    if mask_BT is None:
        return None
    mask_BT = mask_BT.bool()
    gap_B = (mask_BT[:, 1:] & ~mask_BT[:, :-1]).any(dim=1)
    if gap_B.any():
        rows = gap_B.nonzero()[:, 0].tolist()
        raise ValueError(
            f"mask has gaps in windows {rows[:10]}: it must be a prefix, True up to the window's last bar "
            "and False after it. Cut the window at the gap, or fill the bars."
        )
    return None if mask_BT.all() else mask_BT.sum(dim=1)


def check_tags(tags_BT: Tensor, num_tags: int) -> None:
    """Refuse tags that are not there.

    Raises:
        ValueError: A tag is negative or not below num_tags.
    """
    if tags_BT.numel() and not 0 <= int(tags_BT.min()) <= int(tags_BT.max()) < num_tags:
        found = f"{int(tags_BT.min())} to {int(tags_BT.max())}"
        raise ValueError(f"tags must lie in 0 to {num_tags - 1} on bars that count, got {found}")


def zero_masked(values: Tensor, length_B: Tensor | None) -> Tensor:
    """Return values, [B, T] or [B, T, K], with 0 on bars that do not count."""
    if length_B is None:
        return values
    masked_BT = torch.arange(values.shape[1], device=values.device) >= length_B[:, None]
    return values.masked_fill(masked_BT if values.dim() == 2 else masked_BT[:, :, None], 0)


def _lengths(length_B: Tensor | None) -> NDArray[np.int64] | None:
    """Return the lengths as the numpy routines take them."""
    return None if length_B is None else length_B.cpu().numpy()
