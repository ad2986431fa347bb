"""What can go wrong while a run is orchestrated.

RunError
├── RunNotFound        no such run folder, or it lacks what is needed; exit code 2
├── BadRequest         the parameters contradict each other or the data; exit code 2
│   ├── SettingsError  a jade.toml is unreadable or says something that makes no sense
│   ├── HostUnknown    no settings file has a host of that name
│   ├── HostNotReady   the host lacks what a training needs
│   ├── GpuUnknown     no provider's catalogue has a GPU of that name
│   ├── NothingCheapEnough  every offer costs more than the cap
│   └── ReaperMissing  nobody would free the machine if we died
├── NothingRented      every candidate was tried and none could be had or used; exit code 1
├── RentalBusy         another process that is alive trains just this on a rented machine; exit code 1
├── RentingCancelled   the run ended while a machine was being rented for it; exit code 1
├── PromotionRefused   the run cannot become champion, or there is nothing to go back to; exit code 2
├── InstallationFailed the local Prefect installation does not start or stop; exit code 1
│   └── PortTaken      another program listens where its server should; exit code 2
├── FlowGoesOn         only whoever started the flow, elsewhere, can stop it; exit code 1
├── LeaseLost          another run may train the same by now, so this one stopped; exit code 1
├── TrainingFailed     the training job ended without its results; carries the end of its output; exit code 1
├── UnitError          a training failed on a worker of a cluster; carries the error's name; exit code 1
└── TrainingsFailed    some of a sweep's trainings could not be run; carries the reasons; exit code 1
"""

from __future__ import annotations

from typing import Any


class RunError(Exception):
    """Base of the errors that are raised on purpose here."""

    exit_code = 1
    is_transient = False


def _rebuild(kind: type[RunError], args: tuple[Any, ...], evidence: dict[str, Any]) -> RunError:
    # Task runners pickle errors, and some are made of evidence, not of a message alone.
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(evidence)
    return error


class RunNotFound(RunError):
    """There is no such run, or it does not hold what was asked for."""

    exit_code = 2


class BadRequest(RunError):
    """The parameters contradict each other or the data."""

    exit_code = 2


class SettingsError(BadRequest):
    """A settings file is unreadable, or says something that makes no sense."""


class HostUnknown(BadRequest):
    """No settings file has a host of that name.

    Attributes:
        name: What was asked for.
        known: What there is.
    """

    def __init__(self, name: str, known: tuple[str, ...], close: str | None) -> None:
        self.name, self.known = name, known
        hint = f" Did you mean {close!r}?" if close else ""
        there = f"known: {', '.join(known)}" if known else "none is known"
        super().__init__(f"no host is called {name!r}; {there}.{hint} `jade hosts add {name} --host ADDRESS` adds it.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class HostNotReady(BadRequest):
    """The host lacks what a training needs."""


class GpuUnknown(BadRequest):
    """The provider's catalogue has no GPU, or machine type, of that name.

    Attributes:
        name: What was asked for.
        close: The closest names that there are.
    """

    def __init__(self, provider: str, name: str, close: tuple[str, ...]) -> None:
        self.provider, self.name, self.close = provider, name, close
        hint = f" Did you mean {' or '.join(repr(item) for item in close)}?" if close else ""
        super().__init__(f"{provider} has no GPU called {name!r}.{hint} `jade offers --provider {provider}` lists all.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class NothingCheapEnough(BadRequest):
    """Every offer that fits costs more than the cap.

    Attributes:
        cheapest_usd_per_hour: The lowest price of those that fit otherwise.
    """

    def __init__(self, provider: str, max_price_usd_per_hour: float, cheapest_usd_per_hour: float, what: str) -> None:
        self.max_price_usd_per_hour = max_price_usd_per_hour
        self.cheapest_usd_per_hour = cheapest_usd_per_hour
        super().__init__(
            f"{provider}: nothing that fits costs at most {max_price_usd_per_hour:g} USD/h; the cheapest is {what} at "
            f"{cheapest_usd_per_hour:g} USD/h. Raise --max-price, or name another --gpu."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class FlowGoesOn(RunError):
    """A flow could not be stopped from here.

    Attributes:
        run_id: Its run.
        machine: Network name of the machine that it runs on.
        process_id: Of a flow on this machine that did not end; None for one elsewhere.
    """

    def __init__(self, run_id: str, machine: str, process_id: int | None) -> None:
        self.run_id, self.machine, self.process_id = run_id, machine, process_id
        what = (
            f"runs on {machine}: `jade runs stop {run_id}` there, or cancelling it in Prefect, stops it"
            if process_id is None
            else f"was asked to stop (process {process_id} of this machine) and has not ended yet"
        )
        super().__init__(f"{run_id} {what}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class LeaseLost(RunError):
    """Another run may train the same by now, so this one stopped.

    Attributes:
        run_id: The run that stopped.
    """

    def __init__(self, run_id: str, reason: str) -> None:
        self.run_id, self.reason = run_id, reason
        super().__init__(
            f"{run_id} lost its claim on its trainings: {reason}. It stopped; the same command goes on from the "
            "newest published checkpoints."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ReaperMissing(BadRequest):
    """A machine that cannot end its own cost would be left to nobody if this process died."""


class NothingRented(RunError):
    """Every candidate was tried, and none could be had or used; what was rented for a try is freed."""


class RentalBusy(RunError):
    """Another process that is alive trains just this on a rented machine."""


class RentingCancelled(RunError):
    """The run ended while a machine was being rented for it."""


class TrainingFailed(RunError):
    """The training job ended without all of its results.

    Attributes:
        exit_status: The job's, or None if it was killed.
        stderr_tail: The last lines that it wrote.
    """

    def __init__(self, what: str, exit_status: int | None, stderr_tail: str) -> None:
        self.exit_status, self.stderr_tail = exit_status, stderr_tail
        ended = "was killed" if exit_status is None or exit_status < 0 else f"exited with {exit_status}"
        super().__init__(f"{what}: the training process {ended}. The end of its output:\n{stderr_tail or '(nothing)'}")


class PromotionRefused(RunError):
    """The run cannot become champion, or there is no champion to go back to."""

    exit_code = 2


class InstallationFailed(RunError):
    """The local Prefect installation does not start, or does not stop."""


class PortTaken(InstallationFailed):
    """Another program listens where the installation's server should.

    Attributes:
        port: Which one.
    """

    exit_code = 2

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(
            f"port {port} on 127.0.0.1 is taken by another program. Stop it, or choose another port: "
            f"`jade up --port {port + 1}` (`make up PORT={port + 1}`)."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class TrainingsFailed(RunError):
    """Some of a sweep's trainings could not be run, through no fault of their own.

    Attributes:
        failed: How many.
        planned: Of how many.
        reasons: Different ones, each with the training and the place.
    """

    def __init__(self, failed: int, planned: int, reasons: list[str]) -> None:
        self.failed, self.planned, self.reasons = failed, planned, reasons
        shown = "\n".join(reasons[:5])
        super().__init__(
            f"{failed} of {planned} trainings could not be run. The same command goes on with what is missing.\n{shown}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failed, self.planned, self.reasons)


class UnitError(RunError):
    """A training failed on a worker of a cluster.

    Attributes:
        kind: Name of the error over there.
        reason: What it said.
        where: Host and process.
    """

    def __init__(self, kind: str, reason: str, where: str) -> None:
        self.kind, self.reason, self.where = kind, reason, where
        super().__init__(f"{where}: {kind}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.reason, self.where)
