"""One pass over the centres: RDMs, and their similarities with models, block by block.

Blocks hold centres with equally many members, so that nothing is padded; a brain has thousands of
centres and a few dozen sizes. No RDM outlives its block unless it is asked for.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from repalign.memory import say_size
from repalign.metrics.bures import nuclear_product
from repalign.metrics.comparators import Comparator
from repalign.metrics.pairs import condensed, square_form
from repalign.metrics.ranks import concordance
from repalign.searchlights.local_rdms import NoInverseError, PairIndex, rdms_of_neighbourhoods
from repalign.searchlights.neighbourhoods import Neighbourhoods
from repalign.searchlights.patterns import Patterns

CACHE_BYTES = 8 << 20  # a block of a CPU's thread: larger ones leave its cache
RDM_COPIES = 12  # of a condensed RDM, that ranking makes: values, orders, bounds, ranks
CONCORDANCE_COPIES = 20  # of each pair of RDMs
MEMBER_COPIES = 3  # of the gathered patterns

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddedModels:
    """Model RDMs as a comparator takes them, and how it compares.

    Args:
        compare: the comparator.
        embedded: the models' RDMs on its scale, (model, feature).
        squares: ‖·‖² of each.
    """

    compare: Comparator
    embedded: Float[Tensor, "model feature"]
    squares: Float[Tensor, "model"]

    @classmethod
    def of(cls, rdms: Float[Tensor, "model pair"], compare: Comparator) -> Self:
        """Bring models to a comparator's scale, once for all centres."""
        embedded = compare.embedded(rdms)
        return cls(compare, embedded, compare.square(embedded))

    def similarity(self, rdms: Float[Tensor, "centre pair"]) -> Float[Tensor, "centre model"]:
        """Return the similarity of each RDM with each model."""
        compare, u = self.compare, self.compare.embedded(rdms)
        inner = compare.product(u[:, None], self.embedded[None])
        return compare.combine(inner, compare.square(u)[:, None], self.squares)

    def bytes_of_centre(self, n_pairs: int) -> int:
        """Bytes that one centre takes while it is compared."""
        by_pairs = self.compare.product in (concordance, nuclear_product)
        copies = CONCORDANCE_COPIES * len(self.embedded) if by_pairs else 2
        return 8 * n_pairs * (RDM_COPIES + copies) + 8 * len(self.embedded)


def permuted_rdms(
    rdms: Float[Tensor, "model pair"], *, n_permutations: int, seed: int
) -> Float[Tensor, "model_of_permutation pair"]:
    """Return RDMs whose stimuli are in random orders: all models in one order, then in the next."""
    square = square_form(rdms)
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(n_permutations, square.shape[1], generator=generator).argsort(1)
    found = [condensed_batch(square[:, order[:, None], order]) for order in orders]
    return torch.cat([rdms[:0], *found])


def condensed_batch(square: Float[Tensor, "rdm stimulus stimulus"]) -> Float[Tensor, "rdm pair"]:
    """Return the upper triangles of some square RDMs."""
    return condensed(square).reshape(len(square), -1)


@dataclass(frozen=True)
class SearchlightPass:
    """All that one pass over the centres needs.

    Args:
        patterns: of all neuroids.
        neighbourhoods: the centres and their members.
        models: what is compared with.
        method: a name in ``LOCAL_METHODS``.
        noise: how the covariance of noise is estimated, or None.
        block_bytes: most memory that the blocks of one thread take.
        workers: number of threads.
    """

    patterns: Patterns
    neighbourhoods: Neighbourhoods
    models: EmbeddedModels
    method: str
    noise: str | None
    block_bytes: int
    workers: int = 1

    @property
    def n_pairs(self) -> int:
        """Number of pairs of stimuli."""
        n = self.patterns.sums.shape[2]
        return n * (n - 1) // 2

    def run(self, start: int, stop: int, *, rdms: bool = False) -> tuple[Numbers, Numbers | None]:
        """Return similarities, (centre, model), of the centres from ``start`` to ``stop``.

        With ``rdms`` their RDMs too, (centre, pair).

        Raises:
            ValueError: a covariance of noise has no inverse; its centre is named.
        """
        values = np.empty((stop - start, len(self.models.embedded)))
        kept = np.empty((stop - start, self.n_pairs)) if rdms else None
        pairs = PairIndex.of(self.patterns.sums.shape[2], self.patterns.sums.device)

        def work(block: NDArray[np.int64]) -> None:
            found = self._rdms(block + start, pairs)
            values[block] = self.models.similarity(found).cpu().numpy()
            if kept is not None:
                kept[block] = found.cpu().numpy()

        blocks = list(self.blocks(start, stop))
        if self.workers == 1:
            for block in blocks:
                work(block)
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                list(pool.map(work, blocks))
        return values, kept

    def blocks(self, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers, from ``start``, of centres with equally many members."""
        sizes = self.neighbourhoods.size[start:stop]
        order = np.argsort(sizes, kind="stable")
        ends = np.flatnonzero(np.diff(sizes[order])) + 1
        for group in np.split(order, ends):
            if len(group):
                step = max(1, self.block_bytes // self.bytes_of_centre(int(sizes[group[0]])))
                yield from np.split(group, range(step, len(group), step))

    def bytes_of_centre(self, n_members: int) -> int:
        """Bytes that one centre with so many members takes."""
        folds, n = self.patterns.sums.shape[1:]
        columns = folds * n * MEMBER_COPIES
        if self.noise is not None and self.patterns.residuals is not None:
            columns += 3 * self.patterns.residuals.shape[1] + 5 * n_members
        own = self.patterns.sums.itemsize * (n_members * columns + 3 * n * n)
        return own + self.models.bytes_of_centre(self.n_pairs)

    def _rdms(self, centres: NDArray[np.int64], pairs: PairIndex) -> Float[Tensor, "centre pair"]:
        hoods = self.neighbourhoods
        starts, size = hoods.offset[centres], int(hoods.size[centres[0]])
        members = hoods.member[starts[:, None] + np.arange(size)].astype(np.int64)
        on_device = torch.from_numpy(members).to(self.patterns.sums.device)
        try:
            return rdms_of_neighbourhoods(
                self.patterns, on_device, method=self.method, noise=self.noise, pairs=pairs
            )
        except NoInverseError as error:
            centre = int(hoods.centre[centres[error.number]])
            raise ValueError(
                f"the covariance of noise around neuroid {centre} ({size} neuroids, "
                f"{self.patterns.freedom:g} degrees of freedom) has no inverse; use "
                "noise='shrinkage_eye' or 'shrinkage_diag', or a smaller radius"
            ) from error


def most_block_bytes(one: SearchlightPass, *, memory: int, taken: int) -> int:
    """Return how much memory the blocks of each thread may take.

    Args:
        one: the pass.
        memory: most memory for everything.
        taken: what other things take of it.

    Raises:
        ValueError: not one centre fits.
    """
    largest = one.bytes_of_centre(int(one.neighbourhoods.size.max()))
    left = (memory - taken) // one.workers
    if left < largest:
        raise ValueError(
            f"memory is {say_size(memory)}; the searchlight needs {say_size(taken)} for patterns,"
            f" neighbourhoods and maps, and {say_size(largest)} a thread for one centre. Allow"
            f" {say_size(taken + one.workers * largest)} or more, use dtype='float32', fewer"
            " permutations, or a smaller radius"
        )
    on_cpu = one.patterns.sums.device.type == "cpu"
    return max(largest, min(left, CACHE_BYTES)) if on_cpu else left // 2


@contextmanager
def one_thread_each(workers: int) -> Iterator[None]:
    """Keep torch and BLAS to one thread in each of our own, then restore them."""
    if workers == 1:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
