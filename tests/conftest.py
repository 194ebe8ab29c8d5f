"""What all tests share: a cache of the run's own for the machine's cost model, signals, and quick collections."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# New examples are for those who work on the code, who can look into what they find; a gate asks the same each time.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point the cache of cost models to a temporary folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWMEM_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> None:
    """Take what is loaded by now out of the sight of garbage collections, of which every trainer makes some.

    A worker holds hundreds of thousands of objects of test libraries: a collection takes a quarter of a second there,
    and 15 ms in a process of lowmem's own.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> Iterator[None]:
    """Let interrupts interrupt: a process that was started in the background is told to ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
