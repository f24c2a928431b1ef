"""How layers larger than memory are cut into pieces, and the pieces shared out over passes.

A pass is one run of the network over all stimuli that leaves some pieces on a scratch disk. It
stops behind the deepest layer it needs, so the pieces are dealt from the deepest: the passes that
cost most are as few as can be, and the last and cheapest is the one that is not full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from repalign.memory import say_size
from repalign.metrics.rotation import BLOCK_UNITS

PIECE_BYTES = 128 << 20  # larger pieces are no faster
AHEAD = 2  # pieces in memory: one is multiplied while the next is read
QUEUE_BYTES = 128 << 20  # of outputs that wait to be written, at most
QUEUE_SHARE = 8  # the queue takes no more than one part of so many of what is free
ITEM = 4  # bytes of a value in a piece: float32
NUMBER = 8  # bytes of float64
FINISHING = 8  # stimulus × stimulus matrices of float64 while a layer is rotated
SLACK = 96 << 20  # buffers of libraries, and of the units that are multiplied at a time
LARGEST_BATCH = 32


@dataclass(frozen=True)
class Piece:
    """Some units of one layer, for all stimuli: one file on the scratch disk."""

    layer: str
    start: int
    stop: int
    last: bool  # of its layer

    @property
    def units(self) -> int:
        """How many units it has."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What is run: the stimuli a forward pass, and the pieces of every pass, the deepest first.

    Args:
        n_stimuli: stimuli shown.
        batch_size: stimuli a forward pass.
        passes: pieces by pass.
        queue_bytes: of outputs that wait to be written.
        resident_bytes: most memory that is resident at a time.
    """

    n_stimuli: int
    batch_size: int
    passes: tuple[tuple[Piece, ...], ...]
    queue_bytes: int
    resident_bytes: int

    def bytes_of(self, piece: Piece) -> int:
        """Size of a piece's file."""
        return piece.units * self.n_stimuli * ITEM

    @property
    def scratch_bytes(self) -> int:
        """What the largest pass leaves on the scratch disk."""
        return max(sum(map(self.bytes_of, one)) for one in self.passes)

    @property
    def total_bytes(self) -> int:
        """What all layers would take in float32."""
        return sum(self.bytes_of(piece) for one in self.passes for piece in one)


def plan_passes(
    units: Sequence[tuple[str, int]],
    *,
    n_stimuli: int,
    memory: int,
    base: int,
    stimulus_bytes: int,
    scratch: int,
    batch_size: int | None = None,
) -> Plan:
    """Cut layers into pieces that fit in memory, and deal them to passes that fit on the disk.

    Args:
        units: layers with their number of units, in the order in which they are computed.
        n_stimuli: stimuli shown.
        memory: bytes that may be resident.
        base: bytes that are so before anything is computed: Python, the network, its buffers.
        stimulus_bytes: what one more stimulus in a batch adds.
        scratch: bytes that may lie on the scratch disk.
        batch_size: stimuli a forward pass; None takes as many as fit, up to 32.

    Raises:
        ValueError: memory or scratch is too small for one stimulus or one piece; it says what
            would do.

    Example:
        >>> plan = plan_passes([("conv", 2000), ("fc", 500)], n_stimuli=10, memory=10**9,
        ...                    base=0, stimulus_bytes=100, scratch=90_000)
        >>> [[(piece.layer, piece.units) for piece in one] for one in plan.passes]
        [[('fc', 500), ('conv', 500), ('conv', 500), ('conv', 500)], [('conv', 500)]]
    """
    square = n_stimuli**2
    free = memory - base - SLACK
    least = max(
        (batch_size or 1) * stimulus_bytes * QUEUE_SHARE // (QUEUE_SHARE - 1) + 1,
        square * NUMBER * FINISHING + AHEAD * n_stimuli * ITEM,
    )
    if free < least:
        raise ValueError(
            f"memory is {say_size(memory)}, and {n_stimuli} stimuli take {say_size(least)} beside"
            f" the {say_size(base + SLACK)} of the network and its libraries; give memory="
            f"'{(base + SLACK + least + (16 << 20)) // 10**6 + 1}MB'"
            + (f" or a smaller batch_size than {batch_size}" if batch_size else "")
        )
    queue = min(QUEUE_BYTES, free // QUEUE_SHARE)
    if batch_size is None:
        fits = (free - queue) // max(1, stimulus_bytes)
        batch_size = max(1, min(LARGEST_BATCH, n_stimuli, fits))
    # a quarter of the scratch: coarser pieces would leave much of it empty
    room = min(PIECE_BYTES, (free - square * NUMBER * FINISHING) // AHEAD, max(scratch // 4, 1))
    column = n_stimuli * ITEM  # bytes of one unit
    most = max(1, min(room // column, queue // (batch_size * ITEM)))
    whole = max((count for _, count in units if count <= n_stimuli + 1), default=1)
    if scratch < whole * column:
        raise ValueError(
            f"scratch_size is {say_size(scratch)}; the smallest piece of these layers for"
            f" {n_stimuli} stimuli takes {say_size(whole * column)}"
        )
    passes: list[list[Piece]] = [[]]
    left = scratch
    for name, count in reversed(units):
        pieces = (
            1 if count <= n_stimuli + 1 else -(-count // most)
        )  # few units are kept as they are
        if most >= BLOCK_UNITS:  # sums of whole blocks are the same to the bit in other pieces
            step = most // BLOCK_UNITS * BLOCK_UNITS
            edges = [*range(0, count, step), count] if pieces > 1 else [0, count]
        else:
            edges = [round(count * i / pieces) for i in range(pieces + 1)]
        for start, stop in pairwise(edges):
            size = (stop - start) * column
            if size > left and passes[-1]:
                passes.append([])
                left = scratch
            passes[-1].append(Piece(name, start, stop, last=stop == count))
            left -= size
    largest = max(piece.units for one in passes for piece in one) * column
    needs = (
        batch_size * stimulus_bytes + queue,
        square * (NUMBER + ITEM) + AHEAD * largest + SLACK,
        square * NUMBER * FINISHING + AHEAD * largest,
    )
    return Plan(n_stimuli, batch_size, tuple(map(tuple, passes)), queue, base + max(needs))
