"""Limits of file descriptors are set in processes of their own."""

import resource
import subprocess
import sys
import textwrap

from twintape.io import descriptors


def run(program, *arguments):
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


def test_the_soft_limit_is_raised_to_the_hard_one():
    told = run(
        """
        import resource
        from twintape.io.descriptors import raise_limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
        print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE), raise_limit())
        """
    )
    assert told == ["300", "300", "300", "300"]


def test_new_connections_stop_while_recording_still_makes_segments_and_go_on_when_there_is_room(tmp_path):
    told = run(
        """
        import resource, socket, sys
        from twintape.core.markets import Market
        from twintape.io.descriptors import RESERVE, descriptors_left, may_connect
        from twintape.io.disk import PosixDisk
        from twintape.io.spool import Spool, SpoolLimits

        resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
        spool = Spool(PosixDisk(sys.argv[1]), collector="tokyo", market=Market.SPOT, run="a" * 32, version="test",
                      draw_chain_id=lambda: "c" * 16, limits=SpoolLimits(segment_size=1000, reserve_size=0))
        spool.recover()
        for connection in range(1, 11):
            spool.open(connection, url="wss://x", streams=["btcusdt@depth@100ms"], now_ns=connection, event_time_us=None)
        connections = []
        while may_connect():
            connections.append(socket.socket())
        left = descriptors_left()
        for number in range(200):  # many segments of every connection
            for connection in range(1, 11):
                spool.write(connection, [(1000 * number + connection, b'{"x":"%b"}' % (b"y" * 90))])
            spool.sync(1000 * number + 500)
        kinds = {note.kind for note in spool.take_notes()}
        sealed = len(spool.pending())
        connections.pop().close()
        print(len(connections) > 10, RESERVE - 1 <= left <= RESERVE, sealed > 100, spool.held_bytes, spool.lost_count, len(kinds), may_connect())
        """,
        str(tmp_path),
    )
    assert told == ["True", "True", "True", "0", "0", "0", "True"]


def test_a_process_without_any_descriptor_knows_it():
    told = run(
        """
        import resource, os
        from twintape.io.descriptors import descriptors_in_use, may_connect
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        files = []
        try:
            while True:
                files.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        print(descriptors_in_use(), may_connect())
        """
    )
    assert told == ["50", "False"]


def test_no_limit_at_all_is_no_shortage(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert descriptors.may_connect()


def test_where_the_system_does_not_say_connections_go_on(monkeypatch):
    monkeypatch.setattr(descriptors, "_OPEN", None)
    assert descriptors.descriptors_in_use() == 0
    assert descriptors.may_connect()
