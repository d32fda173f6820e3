"""The processes of one run, as torchrun or `accelerate launch` start them.

In: the environment that they set. Out: this process's number, and a way to wait for the others. The
processes share files, not tensors, so all they need is a barrier; it is gloo's, which has no time
limit that a slow benchmark would meet and needs no GPU. `accelerate launch` starts several with
`--multi_gpu`, on a CPU too; with `--cpu` it starts one, whatever `--num_processes` says.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

PATIENCE = timedelta(days=7)
NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """Who this process is.

    Args:
        rank: its number, from 0.
        count: how many there are.
        local: its number on this machine.
        on_machine: how many there are on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    on_machine: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes what there is one of."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            distributed.barrier()

    def own(self, device: str) -> str:
        """The device of this process: `cuda` is one GPU each, anything else what it says."""
        return f"cuda:{self.local}" if device == "cuda" and self.count > 1 else device

    def cards(self) -> list[int] | None:
        """GPUs that a spread-out model of this process may use; None where they are all its own."""
        if self.on_machine == 1:
            return None
        every = range(torch.cuda.device_count())
        return [card for card in every if card % self.on_machine == self.local]


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes while the block runs.

    Raises:
        ValueError: `WORLD_SIZE` is set, but not the rest of what torchrun sets, or no number.
    """
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        yield Processes()
        return
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={count} asks for {count} processes, but {', '.join(missing)} is not set; "
            "start them with torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    rank = _number("RANK", 0)
    local = _number("LOCAL_RANK", rank)
    on_machine = _number("LOCAL_WORLD_SIZE", count)
    started = not distributed.is_initialized()
    if started:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        yield Processes(rank, count, local, on_machine)
    finally:
        if started:
            distributed.destroy_process_group()


def _number(name: str, otherwise: int) -> int:
    """A whole number of the environment."""
    value = os.environ.get(name, str(otherwise))
    if not value.isdecimal():
        raise ValueError(f"{name} is {value!r}; torchrun sets a whole number, or unset it")
    return int(value)
