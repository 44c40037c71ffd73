"""What may happen to a folder between two scans, and what then becomes of the ids: tried on the rules alone
and on a real database."""

from dataclasses import replace

from media.catalogue import Counts
from media.identity import Found, Reading


def file(content: str, **tags: object) -> Found:
    """A file that was read; its content decides its length and mtime too, as if it were never touched."""
    reading = Reading(content_id=content, media_type="audio/wav", title=content.upper() or "EMPTY")
    return Found(len(content), sum(content.encode()), replace(reading, **tags))


def unopened(found: Found) -> Found:
    return replace(found, reading=None)


CASES = {
    # what was there as ids 1, 2, …; what is found now; the ids then; what the counts say
    "unchanged": ({"a": "A"}, {"a": None}, {"a": 1}, Counts(0, 0, 0, 0)),
    "touched": ({"a": "A"}, {"a": "A"}, {"a": 1}, Counts(0, 1, 0, 0)),
    "tags_changed": ({"a": "A", "b": "B"}, {"a": "A2", "b": None}, {"a": 1, "b": 2}, Counts(0, 1, 0, 0)),
    "moved": ({"a": "A"}, {"z/a": "A"}, {"z/a": 1}, Counts(0, 0, 1, 0)),
    "moved_and_others_changed": (
        {"a": "A", "b": "B"},
        {"c": "A", "b": "B2"},
        {"c": 1, "b": 2},
        Counts(0, 1, 1, 0),
    ),
    "swapped": ({"a": "A", "b": "B"}, {"a": "B", "b": "A"}, {"a": 2, "b": 1}, Counts(0, 0, 2, 0)),
    "rotated": (
        {"a": "A", "b": "B", "c": "C"},
        {"a": "C", "b": "A", "c": "B"},
        {"a": 3, "b": 1, "c": 2},
        Counts(0, 0, 3, 0),
    ),
    "chain": ({"a": "A", "b": "B"}, {"b": "A", "c": "B"}, {"b": 1, "c": 2}, Counts(0, 0, 2, 0)),
    "one_put_in_front_and_all_renumbered": (
        {"1": "A", "2": "B", "3": "C"},
        {"1": "new", "2": "A", "3": "B", "4": "C"},
        {"1": 4, "2": 1, "3": 2, "4": 3},
        Counts(1, 0, 3, 0),
    ),
    "copied": ({"a": "A"}, {"a": None, "b": "A"}, {"a": 1, "b": 2}, Counts(1, 0, 0, 0)),
    "copied_and_original_changed": ({"a": "A"}, {"a": "A2", "b": "A"}, {"a": 1, "b": 2}, Counts(1, 1, 0, 0)),
    "overwritten_by_new": ({"a": "A"}, {"a": "X"}, {"a": 1}, Counts(0, 1, 0, 0)),
    "overwritten_by_copy": (
        {"a": "A", "b": "B"},
        {"a": "B", "b": None},
        {"a": 1, "b": 2},
        Counts(0, 1, 0, 0),
    ),
    "overwritten_by_move": ({"a": "A", "b": "B"}, {"a": "B"}, {"a": 2}, Counts(0, 0, 1, 1)),
    "deleted": ({"a": "A", "b": "B"}, {"b": None}, {"b": 2}, Counts(0, 0, 0, 1)),
    "both_copies_moved_keep_their_names": (
        {"x/a": "A", "x/b": "A"},
        {"y/b": "A", "y/a": "A"},
        {"y/a": 1, "y/b": 2},
        Counts(0, 0, 2, 0),
    ),
    "one_of_two_copies_moved": (
        {"a": "A", "b": "A"},
        {"b": None, "c": "A"},
        {"b": 2, "c": 1},
        Counts(0, 0, 1, 0),
    ),
    "more_copies_than_rows": ({"a": "A"}, {"x": "A", "y": "A"}, {"x": 1, "y": 2}, Counts(1, 0, 1, 0)),
    "empty_file_moved_is_new": ({"a": ""}, {"b": ""}, {"b": 2}, Counts(1, 0, 0, 1)),
    "empty_file_filled": ({"a": "", "b": ""}, {"a": "A", "b": None}, {"a": 1, "b": 2}, Counts(0, 1, 0, 0)),
    "emptied": ({"a": "A", "b": ""}, {"a": ""}, {"a": 1}, Counts(0, 1, 0, 1)),
}
