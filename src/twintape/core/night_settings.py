"""Settings of the nightly job, from TOML text."""

from __future__ import annotations

import tomllib

import msgspec

from twintape.core.errors import ConfigError

__all__ = ["NightlySettings", "parse_nightly_settings"]


class NightlySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a night does.

    Attributes:
        store: Where segments and archive are.
        jobs: Days computed at the same time.
        collectors: Who must have closed a date before it is merged; empty for those of the week before.
        scratch: Directory for raw objects while they are merged; None for the system's.
        prune: Whether to plan a prune after the merge.
        execute: Whether that prune deletes; otherwise it is a dry run.
        grace: How long raw data outlives a complete or partial proof.
        gapped_grace: How long it outlives a gapped one.
        single_merger: The promise that no other merge or prune runs at the same time: what a store that ignores conditions needs.
    """

    store: str = "./twintape-store"
    jobs: int = 1
    collectors: tuple[str, ...] = ()
    scratch: str | None = None
    prune: bool = True
    execute: bool = False
    grace: str = "72h"
    gapped_grace: str = "14d"
    single_merger: bool = False


def parse_nightly_settings(text: str, *, overrides: dict[str, object] | None = None) -> NightlySettings:
    r"""Return the settings a TOML text describes; `overrides` (of the command line) win.

    >>> parse_nightly_settings('store = "s3://bucket"\njobs = 4').jobs
    4

    Raises:
        ConfigError: The text is not TOML, has an unknown key, or a value of the wrong kind.
    """
    try:
        decoded = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration is not TOML: {error}") from error
    try:
        settings = msgspec.convert({**decoded, **(overrides or {})}, NightlySettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the configuration is wrong: {error}") from error
    if not 1 <= settings.jobs <= 1024:
        raise ConfigError(f"jobs is {settings.jobs}, must be between 1 and 1024")
    return settings
