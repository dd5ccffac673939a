"""Deliberate mistakes in our own code, each the kind that a tired person makes, and where they are found out.

A mutant is a patch of one source file, or of two where one stands guard over the other. Its anchor must be there exactly once: one that no longer matches fails the tests, so that the list
stays true. `hunt.py` runs the hunters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        name: What is wrong with it.
        module: The module that is patched.
        old: The anchor.
        new: What stands there instead.
        faults: What goes wrong in the simulations that hunt it; `power` alone: the power-loss test of the spool hunts it.
        seed: The first seed where it is found out.
        days: How many days the simulations have.
        behind: Module, anchor and patch of a second mistake, which the first one is there to let through.
    """

    name: str
    module: str
    old: str
    new: str
    faults: str
    seed: int = 0
    days: int = 2
    behind: tuple[str, str, str] | None = None

    def sources(self) -> dict[str, tuple[Path, str]]:
        """Return path and patched source of each module. Raises `ValueError` if an anchor is not there exactly once."""
        patches = [(self.module, self.old, self.new), *([] if self.behind is None else [self.behind])]
        found = {}
        for module, old, new in patches:
            path = SOURCE / (module.replace(".", "/") + ".py")
            text = path.read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: the anchor is in {path} {text.count(old)} times: {old!r}")
            found[module] = path, text.replace(old, new)
        return found


POWER = "power-loss test"

MUTANTS = [
    # --- the recording path ---
    Mutant(
        "an upload is acknowledged before size and digest are checked",
        "twintape.io.upload",
        "            found = await store.get(sealed.key)\n",
        "            return\n",
        faults="damage",
        seed=4,
    ),
    Mutant(
        "already exists is taken as success",
        "twintape.io.upload",
        "        except StoreError as error:\n            if attempt",
        "        except StoreError as error:\n            if type(error).__name__ == 'AlreadyExistsError':\n                return\n            if attempt",
        faults="damage",
    ),
    Mutant(
        "the local copy goes before the upload",
        "twintape.io.shipper",
        "        try:\n            await self._upload(sealed)\n",
        "        try:\n            self._on_confirmed(market, sealed)\n            await self._upload(sealed)\n",
        faults="away,kill",
    ),
    Mutant(
        "a failed upload is taken as done",
        "twintape.io.shipper",
        "            await self._clock.sleep(pause_s * (0.5 + 0.5 * self._draw()))\n            return False\n",
        "            self._on_confirmed(market, sealed)\n            return True\n",
        faults="store,away",
    ),
    Mutant(
        "a failed fsync is ignored",
        "twintape.io.spool",
        "            self._make_durable(active, now_ns)\n        except OSError as error:\n            self._fail(state, error)\n            return False\n",
        "            self._make_durable(active, now_ns)\n        except OSError:\n            active.unsynced.clear()\n            return True\n",
        faults=POWER,
        seed=3,
    ),
    Mutant(
        "a file that failed to sync is synced again",
        "twintape.io.spool",
        "        active.file.sync()\n        active.synced_size",
        "        try:\n            active.file.sync()\n        except OSError:\n            active.file.sync()\n        active.synced_size",
        faults=POWER,
        seed=3,
    ),
    Mutant(
        "lines are acknowledged before the sync",
        "twintape.io.spool",
        "        active.file.sync()\n        active.synced_size",
        "        self._acknowledge('synced', active.path, active.size)\n        active.file.sync()\n        active.synced_size",
        faults=POWER,
    ),
    Mutant(
        "a segment that ends is not synced",
        "twintape.io.spool",
        "            self._make_durable(active, active.last_ns)\n",
        "            self._vouch(active, active.last_ns)\n",
        faults=POWER,
        seed=17,
    ),
    Mutant(
        "what was not synced is forgotten with its file",
        "twintape.io.spool",
        "        state.held[:0] = [line for lines in active.unsynced for line in lines.lines()]\n        size = sum([_text_size(lines) for lines in active.unsynced])\n",
        "        size = 0\n",
        faults=POWER,
        seed=3,
    ),
    Mutant(
        "an active file goes before its sealed one is written",
        "twintape.io.shelf",
        "        self._disk.write_atomically(path, answer.data)\n",
        "        self._disk.remove(retired.path)\n        self._disk.write_atomically(path, answer.data)\n",
        faults=POWER,
    ),
    Mutant(
        "a start goes by the chain's record alone",
        "twintape.io.shelf",
        "        if ahead and ours and (self._head_index",
        "        if not ahead and ours and (self._head_index",
        faults=POWER,
    ),
    Mutant(
        "the tail of a torn segment is accepted",
        "twintape.core.active",
        "    texts.pop()  # what no newline ends is no line\n",
        "",
        faults=POWER,
    ),
    Mutant(
        "zeros that a lost sector leaves are text",
        "twintape.core.wire",
        "13 in payload or 0 in payload or not (lines",
        "13 in payload or not (lines",
        faults=POWER,
    ),
    # --- merging ---
    Mutant(
        "a merge believes what it wrote instead of what the store has",
        "twintape.io.merge",
        "        data = await run.store.get(key)\n        if data != table.data:\n",
        "        data = table.data\n        if data != table.data:\n",
        faults="damage",
        seed=26,
    ),
    Mutant(
        "a merge deletes what it has merged",
        "twintape.io.merge",
        "    return DayOutcome(symbol, stream, batch.date, key, proof.status, generation, fresh=True)\n",
        "    for source in sources:\n        await run.store.delete(source.info.key)\n"
        "    return DayOutcome(symbol, stream, batch.date, key, proof.status, generation, fresh=True)\n",
        faults="none",
    ),
    Mutant(
        "a later generation forgets what the one before has settled",
        "twintape.io.merge",
        "    carried = [source for source in lineage if source.key not in at_hand]\n",
        "    carried = []\n",
        faults="away",
        seed=5,
        days=3,
    ),
    Mutant(
        "a proof names only the raw objects at hand",
        "twintape.io.proofs",
        "    inputs = [*carried, *_inputs(batch, task, sources, result.settled)]\n",
        "    inputs = _inputs(batch, task, sources, result.settled)\n",
        faults="away",
        seed=26,
        days=3,
    ),
    Mutant(
        "the neighbours' pins are ignored",
        "twintape.io.batch",
        "        batch.heads.get((symbol, stream, neighbour(batch.date, -1))),\n        batch.heads.get((symbol, stream, neighbour(batch.date, 1))),\n",
        "        None,\n        None,\n",
        faults="blackout",
        seed=8,
    ),
    Mutant(
        "a day with gaps is not gapped",
        "twintape.core.manifest",
        "    if gaps:\n        return Status.GAPPED\n",
        "",
        faults="blackout",
    ),
    Mutant(
        "a row behind a gap does not say so",
        "twintape.columns.merge",
        "    flags[fates.gap_after >= 0] |= GAP_BEFORE\n",
        "",
        faults="blackout",
    ),
    Mutant(
        "a day that lacks what could not be read is complete",
        "twintape.core.manifest",
        "    return Status.PARTIAL if partial_reasons else Status.COMPLETE\n",
        "    return Status.COMPLETE\n",
        faults="away,blackout,damage",
    ),
    Mutant(
        "late raw data is dropped",
        "twintape.io.batch",
        '        return "there is new raw data"\n',
        "        return None\n",
        faults="away",
        seed=9,
    ),
    Mutant(
        "conservation is not checked, and the copies of the other lines are thrown away",
        "twintape.columns.verify",
        "        if _outside(line, chunk, date, market, spans):\n",
        "        if _outside(line, chunk, date, market, spans) or True:\n",
        faults="none",
        behind=(
            "twintape.columns.merge",
            "    rows = np.flatnonzero(fates.fate == Fate.DUPLICATE)\n",
            "    rows = np.flatnonzero(fates.fate == Fate.DUPLICATE)[:0]\n",
        ),
    ),
    Mutant(
        "an ambiguous put is taken as done",
        "twintape.io.store",
        "    try:\n        found = await store.get(key)\n    except StoreError:\n        raise failure from None\n    if found != data:\n",
        "    if type(failure) is StoreError:\n        return\n"
        "    try:\n        found = await store.get(key)\n    except StoreError:\n        raise failure from None\n    if found != data:\n",
        faults="store",
    ),
    Mutant(
        "short gaps are hidden",
        "twintape.columns.findings",
        "    for k in np.flatnonzero(day.flags & GAP_BEFORE).tolist():\n        row = int(chain[k])\n",
        "    for k in np.flatnonzero(day.flags & GAP_BEFORE).tolist()[1:]:\n        row = int(chain[k])\n",
        faults="blackout",
    ),
    Mutant(
        "what only one line heard is left out",
        "twintape.columns.fates",
        "        rows = begin + np.flatnonzero(fresh)\n",
        "        rows = begin + np.flatnonzero(fresh & (line == line[0]))\n",
        faults="kill",
    ),
    # --- pruning ---
    Mutant(
        "a raw object goes that no proof has settled",
        "twintape.core.manifest",
        '    if settled is None:\n        return "no proof has settled it"\n',
        "    if settled is None:\n        return None\n",
        faults="away,restart",
    ),
    Mutant(
        "frames that a day owes to another are not counted",
        "twintape.core.manifest",
        "        if done != count:\n",
        "        if done > count:\n",
        faults="workers",
        seed=2,
        days=3,
    ),
    Mutant(
        "raw objects are deleted by age",
        "twintape.io.prune",
        "        if reason is None:\n            reason = await _shared_reason(",
        "        if now_ns - raw.info.modified_ns > 12 * 3600 * 10**9:\n            reason = None\n"
        "        elif reason is None:\n            reason = await _shared_reason(",
        faults="none",
        seed=2,
    ),
    Mutant(
        "a proof is trusted whose outputs nobody has read again",
        "twintape.io.prune",
        "        try:\n            data = await store.get(output.key)\n        except NotFoundError:\n            return None\n        if digest(data) !=",
        "        data = b''\n        size += output.size\n        continue\n        if digest(data) !=",
        faults="rot",
        seed=5,
    ),
    Mutant(
        "outputs are deleted whoever names them",
        "twintape.io.prune",
        "    if any(output.key == info.key for output in head.proof.outputs):\n        return\n",
        "",
        faults="none",
    ),
    Mutant(
        "readers of the generation before get no grace",
        "twintape.io.prune",
        '    if left > 0:\n        plan.kept.append(Kept(key=info.key, reason=f"superseded; ',
        '    if left > 2**62:\n        plan.kept.append(Kept(key=info.key, reason=f"superseded; ',
        faults="away",
        seed=9,
        days=3,
    ),
    Mutant(
        "raw objects are deleted by prefix",
        "twintape.io.prune",
        "    await run.store.delete(deletion.key)\n",
        "    async for info in run.store.list('/'.join(deletion.key.split('/')[:4])):\n        await run.store.delete(info.key)\n",
        faults="none",
        seed=5,
    ),
    # --- reading ---
    Mutant(
        "stale events are applied to a newer book",
        "twintape.columns.replay",
        "        inside = [one for one in starts if prev < one.book.update_id <= final]\n",
        "        inside = [one for one in starts if prev < one.book.update_id][-1:]\n",
        faults="blackout,rest",
        seed=2,
    ),
    Mutant(
        "a book is handed out across a gap",
        "twintape.columns.replay",
        "                self.lost = True\n",
        "                self.lost = False\n",
        faults="blackout,rest",
    ),
]
