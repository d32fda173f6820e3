"""Batches that fit: nothing is lost or done twice, and nothing but memory is caught."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lvlm_prune.eval.halving import BatchLimit, out_of_memory

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"
MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError(CPU_MESSAGE),
    RuntimeError("not enough memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.fixture(autouse=True, scope="module")
def quick_collection():
    """Every halving collects garbage; what other modules hold need not be looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def fitting(most, error, tried):
    """Work that returns its batch, and runs out of memory on more than `most` things."""

    def work(batch):
        tried.append(len(batch))
        if len(batch) > most:
            raise error
        return list(batch)

    return work


def reference(count, size, most):
    """Sizes of all batches that are tried, one after the other."""
    tried, done = [], 0
    while done < count:
        batch = min(size, count - done)
        tried.append(batch)
        if batch <= most:
            done += batch
        else:
            size = batch // 2
    return tried, size


@pytest.mark.parametrize("error", MEMORY, ids=["cuda", "cpu", "mps", "python"])
@pytest.mark.parametrize("most", [1, 3, 64])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 8), (5, 64)])
def test_all_things_in_order_in_batches_that_fit(error, most, count, size):
    tried, heard = [], []
    limit = BatchLimit(size, heard.append)
    things = list(range(count))
    made = limit.run(fitting(most, error, tried), things)
    assert [thing for batch in made for thing in batch] == things
    assert (tried, limit.size) == reference(count, size, most)
    assert len(heard) == sum(batch > most for batch in tried)
    if heard:
        assert heard[-1].endswith(f"going on with {limit.size}")


def test_the_size_that_fits_is_remembered():
    tried = []
    limit = BatchLimit(8)
    work = fitting(2, MEMORY[0], tried)
    limit.run(work, range(8))
    tried.clear()
    limit.run(work, range(6))
    assert tried == [2, 2, 2]


@pytest.mark.parametrize("error", MEMORY, ids=["cuda", "cpu", "mps", "python"])
def test_one_thing_that_does_not_fit_is_the_callers(error):
    with pytest.raises(type(error)):
        BatchLimit(4).run(fitting(0, error, []), range(4))


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("shapes differ"), KeyError(1)])
def test_other_errors_are_not_retried(error):
    tried = []
    with pytest.raises(type(error)):
        BatchLimit(4).run(fitting(0, error, tried), range(4))
    assert tried == [4]
    assert not out_of_memory(error)


def test_two_threads_halve_once_for_the_same_size():
    heard: list[str] = []
    limit = BatchLimit(8, heard.append)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda things: limit.run(fitting(4, MEMORY[0], []), things),
                             [range(32), range(32)]))  # fmt: skip
    for batches in made:
        assert [thing for batch in batches for thing in batch] == list(range(32))
    assert limit.size == 4
    assert heard == ["out of memory with 8 at a time; going on with 4"]
