"""What spans and chunks have to be, said another way and slowly: byte by byte, without arrays."""

from __future__ import annotations

from collections import defaultdict


def edits_of(spans):
    """Start, end and spelling of every respelled stretch."""
    found = spans.respelled
    if found is None:
        return []
    return [
        (int(start), int(end), found.spelling(edit))
        for edit, (start, end) in enumerate(zip(found.edit_starts, found.edit_ends, strict=True))
    ]


def respell(text: bytes, edits) -> bytes:
    """The text with its edits made."""
    parts, at = [], 0
    for start, end, spelled in edits:
        parts += [text[at:start], spelled]
        at = end
    return b"".join([*parts, text[at:]])


def chunks(student, teacher):
    """Chunks as groups of tokens that hold on to a common atom, in text order.

    An atom is a byte that both sides share or, in a stretch that both respell alike, a byte of its spelling.
    Returns:
        For each chunk, the positions of its tokens on either side.
    """
    sides = (student, teacher)
    edits = [edits_of(side) for side in sides]
    alike = set(edits[0]) & set(edits[1])
    dropped = set()
    for side, of_side in zip(sides, edits, strict=True):
        for start, end, spelled in of_side:
            if not spelled:
                dropped |= set(range(start, end))
        for i in range(len(side)):
            if side.special[i]:
                dropped |= set(range(side.starts[i], side.ends[i]))
    inside = {byte: edit for edit in alike for byte in range(edit[0], edit[1])}

    owners = [defaultdict(set), defaultdict(set)]
    barriers = []
    for which, side in enumerate(sides):
        for i in range(len(side)):
            first, last = int(side.starts[i]), int(side.ends[i])
            splits = (0, 0)
            if side.respelled is not None:
                splits = int(side.respelled.start_splits[i]), int(side.respelled.end_splits[i])
            if side.special[i]:
                barriers.append((first, splits[0]))
                continue
            for byte in range(first, last) if side.has_bytes[i] else ():
                if byte not in dropped and byte not in inside:
                    owners[which][byte, 0].add(i)
            for start, end, spelled in {inside[byte] for byte in range(first, last) if byte in inside}:
                low = splits[0] if splits[0] and first == start else 0
                high = splits[1] if splits[1] and last == end else len(spelled)
                for k in range(low, high) if side.has_bytes[i] else ():
                    owners[which][start, k].add(i)

    groups, open_atoms, open_tokens = [], [], set()
    for atom in sorted(set(owners[0]) | set(owners[1])):
        here = {(which, i) for which in (0, 1) for i in owners[which][atom]}
        if open_atoms and not here & open_tokens:
            groups.append((open_atoms, open_tokens))
            open_atoms, open_tokens = [], set()
        open_atoms = [*open_atoms, atom]
        open_tokens = open_tokens | here
    if open_atoms:
        groups.append((open_atoms, open_tokens))
    found = []
    for atoms, tokens in groups:
        whole = all(owners[0][atom] and owners[1][atom] for atom in atoms)
        crossed = any(atoms[0] < barrier <= atoms[-1] for barrier in barriers)
        if whole and not crossed:
            found.append(tuple(sorted(i for which, i in tokens if which == side) for side in (0, 1)))
    return found
