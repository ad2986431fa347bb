"""The durable record of every machine that was, or may have been, rented: what is there to free, and what it cost.

A request is written before a provider is asked, every state after it; each step is one transaction, so that a crash
between any two lines leaves a row that the reaper understands. SQLite in one file by default, PostgreSQL where several
machines share a ledger. Who owns the machines is the ledger's own UUID, made once with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tasks.provisioning import entries as tables
from tasks.provisioning.entries import HOUR_S, TRANSITIONS, LeaseState, LedgerEntry, hours_within, spent_usd
from tasks.provisioning.errors import ClaimLost, LedgerError, LedgerUnusable
from tasks.provisioning.provisioner import Instance, Offer, instance_name

SCHEMA_VERSION = 2
_READ_VERSIONS = (1, SCHEMA_VERSION)
"""Version 1 has the same tables and eleven states, which `LeaseState` reads."""
_BUSY_MS = 30_000
_WRITES = "jade_writes"
_MAKING_LOCK = 0x6A616465


@dataclass(frozen=True)
class Purpose:
    """What a machine is rented for.

    Attributes:
        run_id: The run.
        flow_run_id: That run in Prefect; empty if there is none.
        run_keys: Of its trainings, by which the same command finds its machine again; none where the machine takes
            whatever is next: nobody attaches to it.
    """

    run_id: str
    flow_run_id: str = ""
    run_keys: tuple[str, ...] = ()


class Ledger:
    """What was, or may have been, rented.

    Args:
        url: Of the database, as SQLAlchemy takes it.
        clock: Seconds since 1970, UTC.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        try:
            parsed = sa.make_url(url)
            # Never with its password.
            self.where = parsed.render_as_string(hide_password=True)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() == "postgresql":
                # A database made under the locale C gives bytes for text unless it is asked not to.
                parsed = parsed.update_query_dict({"client_encoding": "utf8"})
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                _prepare_file(Path(parsed.database))
            self._engine = sa.create_engine(parsed, pool_pre_ping=True)
        except ArgumentError as error:
            raise LedgerUnusable("given by its URL", "it is not a database URL") from error
        except (ImportError, OSError) as error:
            raise LedgerUnusable(self.where, str(error)) from error
        if self._engine.dialect.name == "sqlite":
            _make_durable(self._engine)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        with self._reporting():
            self.owner = self._prepare()

    def now(self) -> float:
        """The ledger's time, seconds since 1970."""
        return self._clock()

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def request(
        self,
        offer: Offer,
        purpose: Purpose,
        *,
        claim: str,
        max_hours: float,
        orphan_grace_s: float,
        budget_usd: float | None = None,
        owner: str | None = None,
    ) -> LedgerEntry:
        """Write down that a provider is about to be asked, and promise the money for it.

        Of several callers at once, each sees what the others have promised.

        Args:
            offer: Which kind of machine.
            purpose: What for.
            claim: Of the process that asks.
            max_hours: For how long at most; a budget may shorten it.
            orphan_grace_s: How long the machine outlives whoever controls it.
            budget_usd: What may be spent in a calendar month, over all runs of this ledger; None: no limit.
            owner: Tag of whoever pays; None is the ledger's own.

        Raises:
            BudgetSpent: Too little is left for `MIN_HOURS`.
        """
        request_id, owner = secrets.token_hex(8), owner or self.owner
        with self._locked() as connection:
            now = self.now()
            rows = [_entry(row) for row in connection.execute(sa.select(tables.rentals))]
            hours = hours_within(budget_usd, offer.price_usd_per_hour, max_hours, rows, now)
            connection.execute(
                tables.rentals.insert().values(
                    request_id=request_id,
                    owner=owner,
                    provider=offer.provider,
                    name=instance_name(owner, request_id),
                    state=LeaseState.REQUESTED.value,
                    kind=offer.kind,
                    title=offer.title,
                    region=offer.region,
                    spot=offer.spot,
                    price_usd_per_hour=offer.price_usd_per_hour,
                    max_age_s=hours * HOUR_S,
                    orphan_grace_s=orphan_grace_s,
                    run_id=purpose.run_id,
                    flow_run_id=purpose.flow_run_id,
                    run_keys=" ".join(purpose.run_keys),
                    claim=claim,
                    requested_at=now,
                    seen_at=now,
                    cost_usd=0.0,
                    reason="",
                )
            )
            self._log(connection, request_id, "", LeaseState.REQUESTED, "")
            return self._get(connection, request_id)

    def advance(
        self, request_id: str, new: LeaseState, *, instance: Instance | None = None, reason: str = ""
    ) -> LedgerEntry:
        """Take a step, durably; return how the request then stands.

        Args:
            request_id: Which.
            new: Where it goes.
            instance: As the provider tells of it; identifier, address and price are taken over.
            reason: Why, for people; kept if it is not empty.

        Raises:
            LedgerError: There is no such request, or no such step from where it stands; nothing has changed.
        """
        with self._locked() as connection:
            entry = self._get(connection, request_id)
            if (entry.state, new) not in TRANSITIONS:
                raise LedgerError(f"Request {request_id} is {entry.state} and cannot become {new}.")
            now = self.now()
            values = {"state": new.value, **_told_by(instance)}
            if new is LeaseState.PROVISIONING:
                values["created_at"] = now
            if new.is_over or entry.state.is_over:
                values["ended_at"] = now if new.is_over else None
            if reason:
                values["reason"] = reason
            connection.execute(_of(request_id).values(values))
            self._log(connection, request_id, entry.state, new, reason)
            return self._settle(connection, request_id, now)

    def correct(self, request_id: str, instance: Instance | None = None, **changes: str) -> LedgerEntry:
        """Take over what a provider tells of a machine by now, such as a changed address; its state stays.

        Args:
            request_id: Which.
            instance: As the provider tells of it.
            changes: Further fields: `fingerprint`, `reason`.
        """
        with self._locked() as connection:
            connection.execute(_of(request_id).values({**_told_by(instance), **changes}))
            return self._get(connection, request_id)

    def touch(self, request_id: str, claim: str) -> LedgerEntry:
        """Say that whoever claims a machine is alive; what it costs is counted up to now.

        Raises:
            ClaimLost: Somebody else claims it.
        """
        with self._locked() as connection:
            entry = self._get(connection, request_id)
            if entry.claim != claim:
                taken_by = entry.claim or "nobody"
                raise ClaimLost(f"Request {request_id} was taken over by {taken_by}; this process lets go of it.")
            now = self.now()
            connection.execute(_of(request_id).values(seen_at=now))
            return self._settle(connection, request_id, now)

    def take(self, request_id: str, claim: str, *, instead_of: str) -> bool:
        """Claim a machine in the place of another claim; return whether it stood as expected."""
        with self._locked() as connection:
            entry = self._get(connection, request_id)
            if entry.claim != instead_of or entry.state.is_over:
                return False
            connection.execute(_of(request_id).values(claim=claim, seen_at=self.now()))
            return True

    def let_go(self, request_id: str, claim: str) -> None:
        """Give up a claim, so that nobody waits for it to run out. Silent if somebody else has it."""
        with self._locked() as connection:
            connection.execute(_of(request_id).where(tables.rentals.c.claim == claim).values(claim=""))

    def entry(self, request_id: str) -> LedgerEntry:
        """Return one request.

        Raises:
            LedgerError: There is none.
        """
        with self._reporting(), self._engine.connect() as connection:
            return self._get(connection, request_id)

    def entries(self, *, owner: str | None = None, only_open: bool = False) -> list[LedgerEntry]:
        """Return requests, oldest first: of an owner, only those that may cost."""
        query = sa.select(tables.rentals).order_by(tables.rentals.c.requested_at, tables.rentals.c.request_id)
        if owner is not None:
            query = query.where(tables.rentals.c.owner == owner)
        with self._reporting(), self._engine.connect() as connection:
            found = [_entry(row) for row in connection.execute(query)]
        return [entry for entry in found if not (only_open and entry.state.is_over)]

    def history(self, request_id: str) -> list[LeaseState]:
        """Return every state that a request has been in, in order."""
        query = (
            sa.select(tables.events.c.new).where(tables.events.c.request_id == request_id).order_by(tables.events.c.id)
        )
        with self._reporting(), self._engine.connect() as connection:
            return [LeaseState(new) for (new,) in connection.execute(query)]

    def spent_usd(self) -> float:
        """Return what all runs have cost in this calendar month, UTC."""
        return spent_usd(self.entries(), self.now())

    def note_reaper(self, owner: str, name: str) -> None:
        """Say that a reaper which runs on schedule has looked after an owner's machines just now."""
        mine = (tables.reapers.c.owner == owner) & (tables.reapers.c.name == name)
        with self._locked() as connection:
            connection.execute(tables.reapers.delete().where(mine))
            connection.execute(tables.reapers.insert().values(owner=owner, name=name, seen_at=self.now()))

    def reaper_age_s(self, owner: str) -> float | None:
        """Return how long ago a scheduled reaper was last alive; None if none ever was."""
        query = sa.select(sa.func.max(tables.reapers.c.seen_at)).where(tables.reapers.c.owner == owner)
        with self._reporting(), self._engine.connect() as connection:
            seen_at = connection.execute(query).scalar()
        return None if seen_at is None else max(self.now() - seen_at, 0.0)

    def _prepare(self) -> str:
        with self._writer.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                # There is no row to lock yet: of two that make it at once, one waits here.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING_LOCK)))
            tables.metadata.create_all(connection)
            found = connection.execute(sa.select(tables.ledger)).first()
            if found is None:
                made = {"id": 1, "schema_version": SCHEMA_VERSION, "owner": uuid.uuid4().hex, "made_at": self.now()}
                connection.execute(tables.ledger.insert().values(made))
                found = connection.execute(sa.select(tables.ledger)).one()
            if found.schema_version not in _READ_VERSIONS:
                raise LedgerUnusable(
                    self.where, f"it is of version {found.schema_version}, this is Jade for {SCHEMA_VERSION}"
                )
            if found.schema_version != SCHEMA_VERSION:
                # Those who cannot read what is written from now on are to refuse it.
                connection.execute(tables.ledger.update().values(schema_version=SCHEMA_VERSION))
        return str(found.owner)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            # The text of these errors shows statements with their values; the first line of the cause says enough.
            reason = str(getattr(error, "orig", None) or type(error).__name__).strip().partition("\n")[0]
            raise LedgerUnusable(self.where, reason) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer is in: SQLite begins it so, PostgreSQL waits for the ledger's row."""
        with self._reporting(), self._writer.begin() as connection:
            connection.execute(sa.select(tables.ledger.c.id).with_for_update())
            yield connection

    @staticmethod
    def _get(connection: sa.Connection, request_id: str) -> LedgerEntry:
        row = connection.execute(sa.select(tables.rentals).where(tables.rentals.c.request_id == request_id)).first()
        if row is None:
            raise LedgerError(f"The ledger has no request {request_id!r}.")
        return _entry(row)

    def _settle(self, connection: sa.Connection, request_id: str, now: float) -> LedgerEntry:
        cost = self._get(connection, request_id).cost_until(now)
        connection.execute(_of(request_id).values(cost_usd=cost))
        return self._get(connection, request_id)

    def _log(self, connection: sa.Connection, request_id: str, old: str, new: LeaseState, detail: str) -> None:
        event = {"request_id": request_id, "at": self.now(), "old": str(old), "new": new.value, "detail": detail}
        connection.execute(tables.events.insert().values(event))


def _of(request_id: str) -> sa.Update:
    return tables.rentals.update().where(tables.rentals.c.request_id == request_id)


def _told_by(instance: Instance | None) -> dict[str, Any]:
    if instance is None:
        return {}
    values: dict[str, Any] = {
        "instance_id": instance.instance_id,
        "price_usd_per_hour": instance.price_usd_per_hour,
    }
    if instance.address is not None:
        values |= {"host": instance.address.host, "port": instance.address.port, "user": instance.address.user}
    return values


def _entry(row: sa.Row[Any]) -> LedgerEntry:
    values: dict[str, Any] = {column.key: row._mapping[column] for column in tables.rentals.c}  # noqa: SLF001 - its public name
    values |= {"state": LeaseState(values["state"]), "run_keys": frozenset(values["run_keys"].split())}
    return LedgerEntry(**values)


def _prepare_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its helper files the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _make_durable(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where _on_begin says, not where sqlite3 guesses
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}").close()
        _use_write_ahead_log(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes then can be refused in the middle; one that says so at once waits.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_write_ahead_log(connection: Any) -> None:
    deadline = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError:
            # Several that open a new file at once: this one statement does not heed the busy timeout.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
