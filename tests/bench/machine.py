"""What the kernel tells of processes and of the machine, and which core a process runs on."""

import os
import platform
import resource
import sqlite3
import subprocess
import time
from importlib import metadata
from pathlib import Path

_CORES = sorted(os.sched_getaffinity(0))
MEASURED_CORE = _CORES[0]
"""For the process whose CPU time is measured: what runs beside it runs on the other one."""
OTHER_CORE = _CORES[-1]
NOISY_SHARE = 0.1
"""Of one core: a run is marked when processes that are not its own took more than that of the machine."""
_PACKAGES = ("aiohttp", "uvloop", "orjson", "httptools", "requests", "segment-analytics-python")
_PROGRAMS = {
    "nginx": ("nginx", "-v"),
    "syslog-ng": ("syslog-ng", "--version"),
    "Fluent Bit": ("fluent-bit", "--version"),
}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process took so far, user and system, all threads; to a microsecond or so."""
    return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) returns


def memory_bytes(pid: int, name: str = "VmRSS") -> int:
    """Return the resident memory of a process, or with `VmHWM` the most that it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not tell {name}")


def pin(pid: int, core: int) -> None:
    """Let every thread of a process, and those it starts later, run on one core only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def on_core(core: int) -> list[str]:
    """Return what to write before a command so that it runs on one core from its start."""
    return ["taskset", "--cpu-list", str(core)]


def forget_cached(directory: Path) -> None:
    """Have the kernel read the files of a directory from the disk when they are read next."""
    for path in directory.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)  # only what is written can be forgotten
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


class Others:
    """How much of the machine processes that are not ours have taken since this was made, as a share of one core.

    Ours are this process and its children; a child counts when it has ended and was waited for, so ask then.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._machine, self._ours = _machine_seconds(), _our_seconds()

    def share(self) -> float:
        taken = (_machine_seconds() - self._machine) - (_our_seconds() - self._ours)
        return max(0.0, taken / (time.monotonic() - self._began))


def _machine_seconds() -> float:
    """Return the CPU time that all processes took, and what the hypervisor gave to other machines."""
    user, nice, system, _, _, _, _, steal = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:9])
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")


def _our_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def describe() -> dict[str, str]:
    """Return the machine, its parts and versions: what a figure means only together with."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line)
    packages = {name: _version_of_package(name) for name in _PACKAGES}
    programs = {name: _version_of_program(command) for name, command in _PROGRAMS.items()}
    return {
        "cores": f"{len(_CORES)}; measured on {MEASURED_CORE}, all else on {OTHER_CORE}",
        "CPU": cpu.partition(":")[2].strip(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **packages,
        **programs,
    }


def _version_of_package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not found"


def _version_of_program(command: tuple[str, ...]) -> str:
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "not found"
    return (shown.stdout + shown.stderr).splitlines()[0].removeprefix("nginx version: ")
