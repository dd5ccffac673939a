"""Roles: what the credentials of collector, merger and pruner must be allowed, and what they must not.

Each permission is one probe. What must be allowed is tried on an object that stays (its key can be no segment, plan, proof or output); what must not
be is tried on names that do not exist, so that a success does no harm.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from twintape.core import names
from twintape.core.errors import StoreError
from twintape.io.doctor import Patient, Probe, UnwellError, Weight

__all__ = ["Permission", "Role", "permissions_of", "role_probes"]

STANDING = "doctor/permission"
"""Under an area: the object that shows that something may be put there."""
CONTENT = b'{"format":"twintape-permission/1"}'
PROVEN = ("plan/v1", "proof", *names.TABLES)


class Role(StrEnum):
    """Who uses a store."""

    COLLECTOR = "collector"
    MERGER = "merger"
    PRUNER = "pruner"


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether an operation (`create`, `read`, `list`, `delete`) on an area (the beginning of a key) is to be allowed."""

    operation: str
    area: str
    allowed: bool


def permissions_of(role: Role, collector: str) -> list[Permission]:
    """Return what a role must and must not be allowed; `collector` is whose, for that role, and somebody's for the others.

    >>> [p.operation for p in permissions_of(Role.COLLECTOR, "tokyo") if p.allowed]
    ['create', 'read']
    """
    own, other = f"raw/v1/{collector}", f"raw/v1/{collector}-not"
    may: list[tuple[str, str]]
    may_not: list[tuple[str, str]]
    match role:
        case Role.COLLECTOR:
            may = [("create", own), ("read", own)]
            may_not = [("create", other), *(("create", area) for area in PROVEN), ("delete", own), ("delete", "proof")]
        case Role.MERGER:
            may = [("list", own), *(("create", area) for area in ("doctor/v1", *PROVEN)), ("read", "proof")]
            may_not = [("create", own), *(("delete", area) for area in ("raw/v1", *PROVEN))]
        case Role.PRUNER:
            may = [("list", own), ("create", "doctor/v1"), ("create", "receipt/v1"), ("read", "receipt/v1"), ("delete", own)]
            may += [("delete", table) for table in names.TABLES]
            may_not = [("create", own), ("create", "proof"), ("delete", "plan/v1"), ("delete", "proof"), ("delete", "receipt/v1")]
    return [Permission(*p, allowed=True) for p in may] + [Permission(*p, allowed=False) for p in may_not]


def role_probes(role: Role, collector: str) -> Sequence[Probe]:
    """Return a probe for each permission of a role."""
    return [_probe(role, permission) for permission in permissions_of(role, collector)]


def _probe(role: Role, permission: Permission) -> Probe:
    verb = "may" if permission.allowed else "may not"
    return Probe(
        name=f"{verb.replace(' ', '-')}-{permission.operation}:{permission.area}",
        meaning=f"the {role} {verb} {permission.operation} {permission.area}/…",
        advice="give the credentials the role's policy: docs/roles.md",
        weight=Weight.EVERYTHING,
        ask=partial(_ask, permission),
    )


async def _ask(permission: Permission, patient: Patient) -> str:
    standing = f"{permission.area}/{STANDING}"
    fresh = f"{permission.area}/doctor/{patient.examination}"
    key = standing if permission.allowed and permission.operation == "create" else fresh
    try:
        await _DO[permission.operation](patient, standing if permission.operation == "read" else key)
    except StoreError as error:
        if permission.allowed or error.retryable:
            raise
        return "refused, as it must be"
    if not permission.allowed:
        raise UnwellError(f"{permission.operation} was not refused")
    return "allowed"


async def _create(patient: Patient, key: str) -> None:
    if not key.endswith(STANDING):
        patient.made.add(key)
    await patient.store.create(key, CONTENT)


async def _read(patient: Patient, key: str) -> None:
    await patient.store.get(key)


async def _list(patient: Patient, key: str) -> None:
    async for _ in patient.store.list(f"{key}/"):
        return


async def _delete(patient: Patient, key: str) -> None:
    await patient.store.delete(key)


_DO: dict[str, Callable[[Patient, str], Awaitable[None]]] = {"create": _create, "read": _read, "list": _list, "delete": _delete}
