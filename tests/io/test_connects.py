"""Attempts counted by several processes, including ones that die or hang while they hold the lock."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from twintape.core.budget import ATTEMPT_LIMIT, SECOND_NS
from twintape.io.connects import CONTENTION_MAX_NS, FILE_NAME, SharedAttempts, default_directory


class Notices(list):
    def __call__(self, name, details):
        self.append(name)


def attempts(directory, notices=None, **limits):
    return SharedAttempts(directory, notice=notices if notices is not None else Notices(), **limits)


def test_two_counters_of_one_directory_share_the_limit_and_nothing_is_forgotten_early(tmp_path):
    first, second = attempts(tmp_path / "d"), attempts(tmp_path / "d")
    made = 0
    for now_ns in range(0, 299 * SECOND_NS, SECOND_NS):
        made += first.take(now_ns) + second.take(now_ns)
    assert made == ATTEMPT_LIMIT
    assert first.take(300 * SECOND_NS)
    assert second.take(300 * SECOND_NS)
    assert not second.take(300 * SECOND_NS)


def test_a_restarted_process_knows_what_its_predecessor_spent(tmp_path):
    assert all(attempts(tmp_path, limit=3, window_ns=100).take(10) for _ in range(3))
    assert not attempts(tmp_path, limit=3, window_ns=100).take(109)
    assert attempts(tmp_path, limit=3, window_ns=100).take(110)


def test_real_processes_together_stay_within_the_limit_though_some_are_killed(tmp_path):
    program = textwrap.dedent(
        """
        import sys, time
        from twintape.io.connects import SharedAttempts
        attempts = SharedAttempts(sys.argv[1], notice=lambda *_: print("NOTICE", flush=True))
        print("ready", flush=True)
        for _ in range(int(sys.argv[2])):
            if attempts.take(time.monotonic_ns()):
                print("took", flush=True)
        """
    )

    def start(count):
        arguments = [sys.executable, "-c", program, str(tmp_path / "d"), str(count)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    victims = [start(10_000_000) for _ in range(2)]
    outputs = [victim.stdout.readline() for victim in victims]
    time.sleep(0.05)  # wherever they are by then
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    for victim in victims:
        with victim.stdout:
            outputs.append(victim.stdout.read())
        victim.wait(30)
    workers = [start(5_000) for _ in range(2)]
    outputs += [worker.communicate(timeout=60)[0] for worker in workers]
    together = "".join(outputs)
    assert "NOTICE" not in together
    # A victim may have died between its attempt and its word about it.
    assert ATTEMPT_LIMIT - len(victims) <= together.count("took") <= ATTEMPT_LIMIT


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"12", b"-5\n99999999999999999999\n\xff\n", b"7000000000\n" * 50_000])
def test_a_damaged_file_or_one_of_another_boot_costs_nothing_but_itself(tmp_path, damage):
    (tmp_path / FILE_NAME).write_bytes(damage)
    taken = [attempts(tmp_path, limit=2, window_ns=100).take(400) for _ in range(3)]
    assert taken == [True, True, False]
    assert (tmp_path / FILE_NAME).read_bytes() == b"400\n400\n"


def test_somebody_who_holds_the_lock_for_ever_is_waited_for_a_moment_only(tmp_path):
    notices = Notices()
    counter = attempts(tmp_path, notices, limit=3)
    assert counter.take(0)
    stuck = os.open(tmp_path / FILE_NAME, os.O_RDWR)
    fcntl.flock(stuck, fcntl.LOCK_EX)
    assert not counter.take(1)
    assert not counter.take(CONTENTION_MAX_NS)
    assert notices == []
    assert [counter.take(1 + CONTENTION_MAX_NS) for _ in range(3)] == [True, True, False]  # its own count still holds
    assert notices == ["connects_not_shared"]
    os.close(stuck)
    assert counter.take(400 * SECOND_NS)
    assert notices == ["connects_not_shared", "connects_shared"]


def test_without_the_directory_a_process_counts_alone_and_says_so_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    notices = Notices()
    counter = attempts(tmp_path / "file" / "d", notices, limit=2)
    assert [counter.take(0) for _ in range(3)] == [True, True, False]
    assert notices == ["connects_not_shared"]


def test_directory_and_file_are_private_and_a_directory_others_may_write_is_not_used(tmp_path):
    attempts(tmp_path / "d").take(0)
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "d" / FILE_NAME).stat().st_mode) == 0o600
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "d")
    for name in ("open", "link"):
        notices = Notices()
        assert attempts(tmp_path / name, notices).take(0)
        assert notices == ["connects_not_shared"]


def test_an_attempt_made_by_another_process_while_this_one_looked_at_its_clock_counts(tmp_path):
    assert attempts(tmp_path, limit=1).take(1001)
    assert not attempts(tmp_path, limit=1).take(1000)


def test_by_default_all_collectors_of_a_user_meet():
    assert default_directory() == default_directory()
    assert default_directory().endswith(f"/twintape-{os.geteuid()}")
