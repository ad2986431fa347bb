"""What child processes and logs are given of the environment, and what of it is a secret."""

from __future__ import annotations

import os

from tasks.core.errors import SettingsError

# One thread a training: parallelism comes from processes.
THREADING = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    # glibc gives each large tensor back to the kernel, and asks for it anew at the next step, unless told to keep them.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


def training_environment() -> dict[str, str]:
    """Return the environment of a training process on this machine."""
    return {**os.environ, **THREADING, "PYTHONUNBUFFERED": "1"}


def provider_environment(names: tuple[str, ...]) -> dict[str, str]:
    """Return those of the named variables that are set: keys of providers, which no file here holds."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


_SECRET_NAMES = ("SECRET", "TOKEN", "PASSWORD", "API_KEY", "AUTH_STRING", "CONNECTION_URL")
_SHORTEST_SECRET = 6


def secret_values() -> list[str]:
    """Return what the environment holds under names that say secret, longest first, to be masked in logs."""
    found = {
        value
        for name, value in os.environ.items()
        if any(word in name.upper() for word in _SECRET_NAMES) and len(value) >= _SHORTEST_SECRET
    }
    return sorted(found, key=len, reverse=True)


def secret_from_environment(name: str) -> str:
    """Return a secret that an environment variable holds; no message ever shows it.

    Raises:
        SettingsError: The variable is missing or empty.
    """
    value = os.environ.get(name)
    if not value:
        raise SettingsError(f"the environment variable {name} is not set; a secret is expected there")
    return value


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
