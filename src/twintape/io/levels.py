"""How loud each event of a collector is: what is in no set here is information. docs/operations.md says what each means."""

from __future__ import annotations

__all__ = ["ALARMING", "LOG_ROUTINE_EVERY", "ROUTINE", "WARNING"]

ALARMING = frozenset(
    {
        "queue_full",
        "descriptors_short",
        "connects_not_shared",
        "rest_blocked",
        "upload_failing",
        "upload_damaged",
        "spool_alarm",
        "subscribe_refused",
        "subscription_missing",
    }
)
"""Somebody should act; each has an alert rule, or a metric that has one."""
WARNING = frozenset(
    {
        "symbol_unknown",
        "symbols_unreadable",
        "gap",
        "epoch",
        "silent",
        "lagging",
        "stream_mute",
        "check_late",
        "peer_vanished",
        "clock_step",
        "snapshot_given_up",
        "snapshot_refused",
        "server_shutdown",
        "dial_failed",
        "spool_note",
    }
)
"""Somebody should know."""
ROUTINE = frozenset(
    {
        "gap_open",
        "gap_filled",
        "gap_covered",
        "id_irregular",
        "frame_of_no_stream",
        "frame_not_text",
        "depth_without_ids",
        "subscription_extra",
    }
)
"""Counted always, logged only now and then: one bad stream must not fill the log."""
LOG_ROUTINE_EVERY = 1000
