"""What the benches share: functions run in turn, their median time, ratio and extra memory."""

import contextlib
import gc
import io
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def side_by_side(
    title: str, functions: Mapping[str, Callable[[], object]], *, repeats: int = 5
) -> tuple[dict[str, object], dict[str, float]]:
    """Run the functions in turn and print them beside the first; return results and seconds.

    A round runs each once, so that a slow minute of the machine hits all; the first round warms up
    and is not counted where there are others.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    memory: dict[str, float] = dict.fromkeys(functions, 0.0)
    results: dict[str, object] = {}
    for _ in range(repeats):
        for name, function in functions.items():
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
            before = peak_megabytes()
            with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the peers' progress bars and warnings
                begin = time.perf_counter()
                results[name] = function()
                seconds[name].append(time.perf_counter() - begin)
            memory[name] = max(memory[name], peak_megabytes() - before)
    medians = {name: statistics.median(times[repeats > 2 :]) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    print(f"\n{title}")
    for name, median in medians.items():
        print(f"  {name:24} {median:9.4f} s  {first / median:8.2f}×  +{memory[name]:6.0f} MB")
    return results, medians
