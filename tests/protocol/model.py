"""The publish-and-prune protocol as a model small enough to look at *every* order in which things can happen.

One day of one stream. Raw objects arrive, one of them late; a deleted one may come back (a second upload, a store that resurrects).
Mergers read the head and raw objects (a listing may leave any of them out), put outputs (a put may be answered and not be there), read them
back, and create the proof of the next generation, which is never overwritten. Pruners read the head and its outputs, plan, and delete what
they have planned, in any order. `Rules` turns single rules of the protocol off: those are the mistakes that look natural.

There are no clocks: everybody takes the next step at any time, or never. So a crash is a step that never comes, and a request that is
answered by nobody and lands arbitrarily late is a step that comes late; a process that starts again is one more merger or pruner.

    uv run python tests/protocol/model.py          # the large configurations: minutes
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

READY, DONE = ("ready",), ("done",)


@dataclass(frozen=True)
class Rules:
    """What the protocol demands; the defaults are the protocol."""

    parent_is_input: bool = True  # a later generation is made from the outputs of the one before as well
    create_only: bool = True  # a proof is never overwritten
    read_back: bool = True  # outputs are read back before the proof is created
    write_ids: bool = True  # every attempt has keys of its own
    prune_by_proof: bool = True  # raw objects go that the head's lineage names, not those that are listed
    prune_verifies: bool = True  # the pruner reads the head's outputs before it plans
    slot_decides: bool = True  # an attempt is garbage only when its generation's slot is taken
    head_keeps: bool = True  # outputs that the head names never go
    proofs_stay: bool = True  # proofs are never deleted
    merger_deletes: bool = False  # a merger deletes its inputs once it believes to have published
    conflict_is_loss: bool = True  # "already exists" is somebody else's proof until read back
    unknown_cleans_up: bool = False  # a merger that got no answer deletes its outputs
    lineage_from_plan: bool = True  # a proof names what its outputs hold, not what was listed when it was published


@dataclass(frozen=True)
class Size:
    """How much of everything there is."""

    mergers: int = 3  # lives of mergers, each with one attempt
    pruners: int = 1  # lives of pruners, each with one plan
    first: tuple[str, ...] = ("a",)
    late: tuple[str, ...] = ("b",)
    returns: int = 1
    lost_puts: int = 1


class Output(NamedTuple):
    target: int
    content: frozenset
    there: bool


class Proof(NamedTuple):
    attempt: int
    content: frozenset  # what its outputs held when they were verified
    lineage: frozenset


class State(NamedTuple):
    raw: frozenset
    arrived: frozenset
    outputs: tuple
    proofs: tuple  # by generation, from 1; None: deleted
    mergers: tuple
    pruners: tuple
    returns: int
    lost_puts: int


def head_of(state):
    """Return the head's generation as everybody finds it: by asking for 1, 2, … until there is none."""
    generation = 0
    while generation < len(state.proofs) and state.proofs[generation] is not None:
        generation += 1
    return generation


def subsets(items):
    items = sorted(items)
    return [frozenset(chosen) for count in range(len(items) + 1) for chosen in combinations(items, count)]


def put_at(sequence, place, value):
    return (*sequence[:place], value, *sequence[place + 1 :])


def is_intact(state, generation):
    """Return whether the outputs that a proof names are there and hold what it says."""
    proof = state.proofs[generation - 1]
    output = state.outputs[proof.attempt]
    return output.there and output.content == proof.content


def broken(state):
    """Return which promise a state breaks, or None."""
    head = head_of(state)
    kept = frozenset()
    if head:
        if not is_intact(state, head):
            return f"the outputs of the head, generation {head}, are gone or are not what its proof says"
        kept = state.proofs[head - 1].content
        if head > 1 and not state.proofs[head - 2].content <= kept:
            return f"generation {head} has lost what generation {head - 1} had"
    lost = state.arrived - state.raw - kept
    return f"raw object {min(lost)} is in neither the store nor the head's outputs" if lost else None


def start(size):
    first = frozenset(size.first)
    return State(first, first, (), (), (READY,) * size.mergers, (READY,) * size.pruners, size.returns, size.lost_puts)


def steps(state, rules, size):
    """Yield `(what happens, next state)` for everything that can happen next."""
    for name in size.late:
        if name not in state.arrived:
            yield f"raw object {name} arrives", state._replace(raw=state.raw | {name}, arrived=state.arrived | {name})
    if state.returns:
        for name in sorted(state.arrived - state.raw):
            yield f"raw object {name} is there again", state._replace(raw=state.raw | {name}, returns=state.returns - 1)
    for number, merger in enumerate(state.mergers):
        if merger not in state.mergers[:number]:  # who is in the same state does the same
            for what, after in merger_steps(state, number, merger, rules):
                yield f"merger {number} {what}", after
    for number, pruner in enumerate(state.pruners):
        if pruner not in state.pruners[:number]:
            for what, after in pruner_steps(state, number, pruner, rules):
                yield f"pruner {number} {what}", after


def happen(state, request, rules):
    """Return the state behind a request that reached the store."""
    if request[0] == "create proof":
        _, generation, proof = request
        proofs = (*state.proofs, *[None] * (generation - len(state.proofs)))
        if proofs[generation - 1] is not None and rules.create_only:
            return state
        return state._replace(proofs=put_at(proofs, generation - 1, proof))
    kind, key = request
    if kind == "delete raw":
        return state._replace(raw=state.raw - {key})
    if kind == "delete outputs of attempt":
        return state._replace(outputs=put_at(state.outputs, key, state.outputs[key]._replace(there=False)))
    return state._replace(proofs=put_at(state.proofs, key - 1, None))


def merger_steps(state, number, merger, rules):
    def become(after, before=state):
        return before._replace(mergers=put_at(before.mergers, number, after))

    if merger == READY:
        yield from survey(state, become, rules)
    elif merger[0] == "merged":
        _, head, content, lineage = merger
        attempt, output = len(state.outputs), Output(head + 1, content, there=True)
        after = "put", head, attempt, content, lineage
        yield f"puts the outputs of attempt {attempt}", become(after, put_output(state, output, rules))
        if state.lost_puts:
            lost = state._replace(outputs=(*state.outputs, output._replace(there=False)), lost_puts=state.lost_puts - 1)
            yield f"puts the outputs of attempt {attempt}: answered, and they are not there", become(after, lost)
    elif merger[0] == "put":
        _, head, attempt, content, lineage = merger
        output = state.outputs[attempt]
        if rules.read_back and not (output.there and output.content == content):
            yield "reads back, finds nothing, and gives up", become(DONE)
        else:
            proof = Proof(attempt, content, lineage if rules.lineage_from_plan else lineage | state.raw)
            yield f"has verified attempt {attempt}", become(("verified", head, proof))
    elif merger[0] in ("verified", "cleaned"):
        yield from publish(state, merger, become, rules)
    elif merger[0] == "deleting":
        for name in sorted(merger[1]):
            yield (
                f"deletes raw object {name}",
                become(("deleting", merger[1] - {name}), happen(state, ("delete raw", name), rules)),
            )


def put_output(state, output, rules):
    """Return the state with a new attempt's outputs; without write-ids it takes the place of the others of its generation."""
    outputs = state.outputs
    if not rules.write_ids:
        outputs = tuple(output if other.target == output.target else other for other in outputs)
    return state._replace(outputs=(*outputs, output))


def survey(state, become, rules):
    head = head_of(state)
    parent = frozenset()
    if head and rules.parent_is_input:
        if not is_intact(state, head):
            return
        parent = state.proofs[head - 1].content
    before = state.proofs[head - 1].lineage if head else frozenset()
    for listed in subsets(state.raw):
        if listed - before:
            content = parent | listed
            told = f"reads head {head} and raw {'+'.join(sorted(listed))}"
            yield told, become(("merged", head, content, content if not head else before | listed))


def publish(state, merger, become, rules):
    told, head, proof = merger
    generation = head + 1
    inputs = proof.lineage & state.raw if rules.merger_deletes else frozenset()
    taken = generation <= len(state.proofs) and state.proofs[generation - 1] is not None
    if taken and rules.create_only:
        yield f"finds generation {generation} taken", become(DONE if rules.conflict_is_loss else ("deleting", inputs))
        return
    published = happen(state, ("create proof", generation, proof), rules)
    yield (
        f"publishes attempt {proof.attempt} as generation {generation}",
        become(("deleting", inputs) if inputs else DONE, published),
    )
    if rules.unknown_cleans_up and told == "verified":
        cleaned = happen(state, ("delete outputs of attempt", proof.attempt), rules)
        yield (
            f"gets no answer for generation {generation} and cleans up; the request is under way",
            become(("cleaned", head, proof), cleaned),
        )


def pruner_steps(state, number, pruner, rules):
    def become(after, before=state):
        return before._replace(pruners=put_at(before.pruners, number, after))

    if pruner == READY:
        head = head_of(state)
        plan = plan_of(state, head, rules) if not rules.prune_verifies or not head or is_intact(state, head) else frozenset()
        if plan:
            told = f"has verified head {head}" if head else "has found old orphans"
            yield f"{told} and plans", become(("deleting", plan))
        return
    for request in sorted(pruner[1]):
        rest = ("deleting", pruner[1] - {request})
        for name in sorted(state.raw) if request[1] == "*" else [request[1]]:
            yield f"does {request[0]} {name}", become(rest, happen(state, (request[0], name), rules))


def plan_of(state, head, rules):
    """Return what a pruner wants to delete; without a head there are only orphans, which nobody may touch."""
    if not head:
        orphans = frozenset(("delete outputs of attempt", key) for key, output in enumerate(state.outputs) if output.there)
        return frozenset() if rules.slot_decides else orphans
    proof = state.proofs[head - 1]
    # Without a proof's names: whatever is listed under the day when it comes to deleting.
    plan = {("delete raw", name) for name in (proof.lineage & state.raw if rules.prune_by_proof else "*")}
    for key, output in enumerate(state.outputs):
        garbage = key != proof.attempt or not rules.head_keeps
        if not rules.write_ids and output.target == head:
            garbage = False
        if output.there and garbage and (output.target <= head or not rules.slot_decides):
            plan.add(("delete outputs of attempt", key))
    if not rules.proofs_stay:
        plan |= {("delete proof", generation) for generation in range(1, head)}
    return frozenset(plan)


@dataclass(frozen=True)
class Verdict:
    """How many states there are (until something broke), what broke, and how it came to that."""

    states: int
    violation: str | None
    story: tuple[str, ...]


def check(rules, size, *, states_max=5_000_000):
    """Look at every state that can be reached, nearest first.

    Raises:
        RuntimeError: There are more than `states_max`.
    """
    first = start(size)
    came_from = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        violation = broken(state)
        if violation is not None:
            return Verdict(len(came_from), violation, story_of(came_from, state))
        for what, after in steps(state, rules, size):
            if after not in came_from:
                came_from[after] = (state, what)
                waiting.append(after)
        if len(came_from) > states_max:
            raise RuntimeError(f"more than {states_max} states")
    return Verdict(len(came_from), None, ())


def story_of(came_from, state):
    told = []
    while came_from[state] is not None:
        state, what = came_from[state]
        told.append(what)
    return tuple(reversed(told))


PROTOCOL = Rules()
MISTAKES = {
    "raw objects are deleted by listing": Rules(prune_by_proof=False),
    "a later generation ignores the one before": Rules(parent_is_input=False),
    "proofs are overwritten": Rules(create_only=False),
    "outputs are not read back": Rules(read_back=False),
    "outputs are read back by nobody": Rules(read_back=False, prune_verifies=False),
    "attempts share their keys": Rules(write_ids=False),
    "orphans are deleted by age": Rules(slot_decides=False),
    "orphans are deleted by age, and nobody verifies": Rules(slot_decides=False, prune_verifies=False),
    "superseded means every output, the head's too": Rules(head_keeps=False),
    "old proofs are deleted": Rules(proofs_stay=False),
    "mergers delete, and already exists is success": Rules(merger_deletes=True, conflict_is_loss=False),
    "no answer is failure, and is cleaned up": Rules(unknown_cleans_up=True),
    "a proof names what is listed, not what was merged": Rules(lineage_from_plan=False),
}
SIZES = {
    "three mergers, one pruner": Size(),
    "two mergers, two pruners": Size(mergers=2, pruners=2),
}
LARGE = {
    "three mergers, two pruners": Size(pruners=2),
    "two mergers, two pruners, three raw objects": Size(mergers=2, pruners=2, first=("a", "c")),
    "four mergers, one pruner": Size(mergers=4),
}


def main():
    for name, size in (SIZES | LARGE).items():
        began = time.process_time()
        verdict = check(PROTOCOL, size)
        print(
            f"the protocol, {name}: {verdict.violation or 'holds'}, {verdict.states:,} states, {time.process_time() - began:.0f} s",
            flush=True,
        )
    for name, rules in MISTAKES.items():
        verdict = check(rules, Size())
        print(f"\n{name}: {verdict.violation} ({verdict.states:,} states)")
        for number, what in enumerate(verdict.story, 1):
            print(f"  {number}. {what}")


if __name__ == "__main__":
    sys.exit(main())
