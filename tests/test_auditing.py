"""The engine behind `data check`: counts, reading by many processes, going on after a stop, copies, the report."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mae_bench.auditing import copies, processes
from mae_bench.errors import MaeBenchError
from mae_bench.stopping import InterruptedRunError
from mae_bench.survey import Finding, Part, Survey
from tests.surveys import checked, facts, kinds, part, reads, told

CONTENTS = [b"%d" % number for number in range(30)]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches for each process, though there are few items."""
    monkeypatch.setattr(processes, "BATCH", 4)


def faulty(item: int, content: bytes) -> list[Finding]:
    """Items 7 and 20 have something."""
    return [Finding("annotation", f"item {item}", "is odd")] if content in (b"7", b"20") else []


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_item_is_read_once_however_many_processes_there_are(tmp_path: Path, workers: int) -> None:
    report = checked([part(tmp_path / "train", CONTENTS, faulty)], tmp_path, workers=workers)
    assert sorted(reads(tmp_path)) == [f"train/{number:04d}" for number in range(30)]
    assert told(report, "annotation") == ["item 7: is odd", "item 20: is odd"]
    assert (report.checked, report.resumed, report.ok) == (30, 0, False)


def test_a_quick_check_reads_nothing(tmp_path: Path) -> None:
    survey = Survey("the-set", [part(tmp_path / "train", CONTENTS, faulty)])
    survey.findings.append(Finding("layout", "data.val", "is not there"))
    report = checked(survey, tmp_path, facts({"train": 31}), quick=True)
    assert (reads(tmp_path), kinds(report)) == ([], ["layout", "wrong-count"])
    assert not (tmp_path / "state").exists()
    assert "images were not looked at" in report.as_text()


def test_what_cannot_be_read_is_told_and_tried_again(tmp_path: Path) -> None:
    train = part(tmp_path / "train", CONTENTS[:6])
    (tmp_path / "train" / "0002").unlink()
    first = checked([train], tmp_path, workers=2)
    assert told(first, "missing-file") == [f"{tmp_path}/train/0002: No such file or directory"]
    reads(tmp_path)
    (tmp_path / "train" / "0002").write_bytes(b"2")
    second = checked([train], tmp_path, workers=2)
    assert (reads(tmp_path), second.findings, second.resumed) == (["train/0002"], [], 5)


def test_a_fault_that_is_raised_is_a_finding_of_its_kind(tmp_path: Path) -> None:
    def faults(item: int, content: bytes) -> list[Finding]:
        if item == 3:
            raise MaeBenchError("a label too many", kind="label-range")
        return []

    report = checked([part(tmp_path / "train", CONTENTS[:6], faults)], tmp_path, workers=2)
    assert told(report, "label-range") == [f"{tmp_path}/train/0003: a label too many"]


def test_a_bug_in_a_check_is_not_taken_for_bad_data(tmp_path: Path) -> None:
    def faults(item: int, content: bytes) -> list[Finding]:
        return [] if item != 3 else [1 / 0]  # type: ignore[list-item]

    with pytest.raises(RuntimeError, match=r"(?s)train/0003.*ZeroDivisionError"):
        checked([part(tmp_path / "train", CONTENTS[:6], faults)], tmp_path, workers=2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_file_that_ends_the_process_is_named_and_the_others_are_read(tmp_path: Path, number: int) -> None:
    """As libpng does on some broken files, and the kernel where memory runs out."""

    def faults(item: int, content: bytes) -> list[Finding]:
        if content in (b"5", b"18"):
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # without the dump of pytest's faulthandler
            os.kill(os.getpid(), number)
        return faulty(item, content)

    report = checked([part(tmp_path / "train", CONTENTS, faults)], tmp_path, workers=2)
    assert told(report, "unreadable") == [
        f"{tmp_path}/train/{name}: reading it ends the process (signal {int(number)}): the file is broken, or "
        "memory is short"
        for name in ("0005", "0018")
    ]
    assert len(told(report, "annotation")) == 2
    assert set(reads(tmp_path)) == {f"train/{item:04d}" for item in range(30)}


def test_what_a_decoder_prints_is_a_note_on_the_image_it_was_printed_for(tmp_path: Path) -> None:
    def faults(item: int, content: bytes) -> list[Finding]:
        if item in (1, 4):
            os.write(2, b"Corrupt JPEG data: premature end\nand more\n")
        return []

    report = checked([part(tmp_path / "train", CONTENTS[:8], faults)], tmp_path, workers=1)
    assert told(report, "damaged") == [
        f"{tmp_path}/train/{name}: it can be read, but may be damaged: Corrupt JPEG data: premature end"
        for name in ("0001", "0004")
    ]
    assert report.ok


# ---------------------------------------------------------------- going on


def test_a_second_check_reads_nothing_again(tmp_path: Path) -> None:
    parts = [
        part(
            tmp_path / "train",
            CONTENTS,
            faulty,
            classes=["a", "b", "c"],
            shows=lambda item, content: [item % 2],
        ),
        part(tmp_path / "val", [b"7", b"new"]),
    ]
    first = checked(parts, tmp_path, workers=2)
    reads(tmp_path)
    second = checked(parts, tmp_path, workers=2)
    assert (reads(tmp_path), second.checked, second.resumed) == ([], 0, 32)
    assert second.findings == first.findings
    assert kinds(first) == ["annotation", "annotation", "leak", "(unused)"]
    assert "32 more were read by an earlier check" in second.as_text()


@pytest.mark.parametrize("cut", [1, 0.5, 0.9, "broken"])
def test_after_a_kill_the_whole_lines_are_kept(tmp_path: Path, cut: float | str) -> None:
    """The file is cut after its first line, in the middle of others, or one line is no longer what it was."""
    parts = [part(tmp_path / "train", CONTENTS, faulty)]
    whole = checked(parts, tmp_path)
    reads(tmp_path)
    (state,) = (tmp_path / "state").iterdir()
    lines = state.read_bytes().splitlines(keepends=True)
    assert len(lines) == 8
    if cut == 1:
        kept, data = 1, lines[0]
    elif cut == "broken":
        kept, data = 3, b"".join([*lines[:3], b'{"entries": "' + lines[3][20:], *lines[4:]])
    else:
        data = b"".join(lines)[: int(len(b"".join(lines)) * float(cut))]
        kept = data.count(b"\n")
    state.write_bytes(data)
    again = checked(parts, tmp_path, workers=2)
    assert again.findings == whole.findings
    assert sorted(reads(tmp_path)) == [f"train/{item:04d}" for item in range(4 * kept, 30)]
    assert (again.checked, again.resumed) == (30 - 4 * kept, 4 * kept)
    assert sorted(state.read_bytes().splitlines()) == sorted(line.rstrip() for line in lines)


def test_an_exception_in_the_middle_keeps_what_was_read(tmp_path: Path) -> None:
    ill = True

    def faults(item: int, content: bytes) -> list[Finding]:
        if ill and item == 17:
            raise KeyboardInterrupt
        return faulty(item, content)

    parts = [part(tmp_path / "train", CONTENTS, faults)]
    with pytest.raises(KeyboardInterrupt):
        checked(parts, tmp_path)
    assert len(reads(tmp_path)) == 18
    ill = False
    report = checked(parts, tmp_path)
    assert reads(tmp_path)[0] == "train/0016"  # the first item of the batch that was lost
    assert (report.checked, report.resumed) == (14, 16)
    assert told(report, "annotation") == ["item 7: is odd", "item 20: is odd"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_in_order_and_says_how_far_it_came(tmp_path: Path, number: int) -> None:
    parent, ill = os.getpid(), True

    def faults(item: int, content: bytes) -> list[Finding]:
        if ill and item == 17:
            os.kill(parent, number)
        return faulty(item, content)

    parts = [part(tmp_path / "train", CONTENTS, faults)]
    with pytest.raises(InterruptedRunError, match=r"stopped: \d+ of 30 images.*goes on from there") as caught:
        checked(parts, tmp_path, workers=2)
    assert caught.value.status == 128 + number
    told_so = int(str(caught.value).split()[1])
    reads(tmp_path)
    ill = False
    report = checked(parts, tmp_path, workers=2)
    assert (report.resumed, len(reads(tmp_path))) == (told_so, 30 - told_so)
    assert 16 <= told_so < 30
    assert told(report, "annotation") == ["item 7: is odd", "item 20: is odd"]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    parts = [part(tmp_path / "train", CONTENTS, faulty)]
    checked(parts, tmp_path)
    reads(tmp_path)
    (tmp_path / "train" / "0007").write_bytes(b"mended")
    os.utime(tmp_path / "train" / "0009", ns=(1, 1))
    report = checked(parts, tmp_path)
    assert sorted(reads(tmp_path)) == ["train/0007", "train/0009"]
    assert told(report, "annotation") == ["item 20: is odd"]
    assert checked(parts, tmp_path).findings == report.findings


def test_what_was_read_is_known_again_in_another_listing(tmp_path: Path) -> None:
    """Images have come and gone, and another task takes one part alone."""

    def listed(*names: int) -> list[Part]:
        """Two parts, of `train` only some items, each with a finding of its own."""
        whole = part(tmp_path / "train", CONTENTS)
        faults = lambda item, content: [Finding("annotation", f"item {names[item]}", "is odd")]  # noqa: E731
        title, read = (lambda item: whole.title(names[item])), (lambda item: whole.read(names[item]))
        some = replace(whole, size=len(names), title=title, read=read, faults=faults)
        return [part(tmp_path / "val", [b"new", b"newer"]), some]

    checked(listed(*range(20)), tmp_path)
    reads(tmp_path)
    report = checked(listed(3, 25, 7), tmp_path)
    assert (reads(tmp_path), report.checked, report.resumed) == (["train/0025"], 1, 4)
    assert told(report, "annotation") == ["item 3: is odd", "item 25: is odd", "item 7: is odd"]
    assert checked(listed(*range(20))[1:], tmp_path).checked == 0
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["the-set.jsonl"]


def test_other_settings_begin_afresh(tmp_path: Path) -> None:
    checked([part(tmp_path / "train", CONTENTS)], tmp_path)
    assert checked([part(tmp_path / "train", CONTENTS, version="other")], tmp_path).checked == 30
    assert checked([part(tmp_path / "train", CONTENTS)], tmp_path).checked == 0


def test_a_state_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(MaeBenchError, match=r"state/the-set\.jsonl, which remembers what was read: "):
        checked([part(tmp_path / "train", CONTENTS)], tmp_path)


# ---------------------------------------------------------------- copies


def grey(content: bytes) -> bytes:
    """Pixels that do not depend on how a letter is written."""
    return content.lower()[:1] * 16


def test_an_image_in_two_splits_is_a_leak_that_names_both(tmp_path: Path) -> None:
    parts = [
        part(tmp_path / "train", [b"a", b"b"], classes=["ant", "bee"], labels=[0, 1]),
        part(tmp_path / "val", [b"c", b"a"], classes=["ant", "bee"], labels=[0, 1]),
    ]
    assert told(checked(parts, tmp_path), "leak") == [
        f"{tmp_path}/val/0001: the same file is in train and val: {tmp_path}/train/0000 (train, class 'ant') and "
        f"{tmp_path}/val/0001 (val, class 'bee'). Remove it from one"
    ]


def test_a_picture_stored_differently_is_found_by_its_pixels(tmp_path: Path) -> None:
    parts = [part(tmp_path / "train", [b"a", b"b"], pixels=grey), part(tmp_path / "val", [b"A"], pixels=grey)]
    (found,) = told(checked(parts, tmp_path), "leak")
    assert "the same picture, stored differently is in train and val" in found
    assert f"{tmp_path}/train/0000 (train) and {tmp_path}/val/0000 (val)" in found
    parts[1] = part(tmp_path / "val", [b"A"])  # without pixels only equal files are
    assert checked(parts, tmp_path).findings == []


def test_sets_that_may_share_images_are_not_compared(tmp_path: Path) -> None:
    parts = [part(tmp_path / name, [b"a", name.encode()]) for name in ("imagenet-a", "imagenet-r")]
    report = checked(parts, tmp_path)
    assert (kinds(report), report.ok) == (["(duplicate)"], True)
    survey = Survey("the-set", parts, disjoint=("imagenet-a", "imagenet-r"))
    assert kinds(checked(survey, tmp_path)) == ["leak"]


def test_copies_in_a_split_are_notes_unless_their_labels_differ(tmp_path: Path) -> None:
    contents = [b"a", b"b", b"a", b"c", b"c", b"a"]
    train = part(tmp_path / "train", contents, classes=["ant", "bee"], labels=[0, 0, 0, 0, 1, 0])
    report = checked([train], tmp_path)
    assert kinds(report) == ["label-conflict", "(duplicate)"]
    assert told(report, "label-conflict") == [
        f"{tmp_path}/train/0004: the same file has several labels: {tmp_path}/train/0003 (class 'ant') and "
        f"{tmp_path}/train/0004 (class 'bee'). Keep the right one"
    ]
    assert "the same file is there 3 times: " in told(report, "duplicate")[0]


def test_what_cannot_be_read_is_no_copy_of_anything(tmp_path: Path) -> None:
    def faults(item: int, content: bytes) -> list[Finding]:
        return [Finding("unreadable", f"{tmp_path}/train/{item:04d}", "is empty")]

    assert kinds(checked([part(tmp_path / "train", [b"", b""], faults)], tmp_path)) == ["unreadable"] * 2


def test_groups_are_those_of_a_dictionary() -> None:
    """Halves that are equal alone make no group, and zeros are no digests."""
    digests = np.random.RandomState(0).randint(0, 4, (300, 2)).astype(np.uint64)
    wanted: dict[tuple[int, ...], list[int]] = {}
    for row, digest in enumerate(digests.tolist()):
        wanted.setdefault(tuple(digest), []).append(row)
    del wanted[0, 0]
    assert sorted(copies.groups(digests)) == sorted(rows for rows in wanted.values() if len(rows) > 1)
    assert list(copies.groups(np.array([[5, 1], [5, 2], [7, 1]], dtype=np.uint64))) == []


# ---------------------------------------------------------------- counts


def sized(root: Path, **sizes: int) -> Survey:
    parts = [
        part(root / name, [f"{name} {item}".encode() for item in range(size)]) for name, size in sizes.items()
    ]
    return Survey("the-set", parts)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"train": 6, "val": 3}, []),
        (
            {"train": 5, "val": 3},
            ["wrong-count ROOT/train: train has 5 images, but The Set has 6 there: 1 missing"],
        ),
        (
            {"train": 6, "val": 4},
            ["wrong-count ROOT/val: val has 4 images, but The Set has 3 there: 1 too many"],
        ),
        (
            {"train": 3, "val": 6},
            [
                "swapped ROOT/train: train has 3 images, which is what val of The Set has; train has 6 there: train "
                "and val are exchanged. Look at data.train and data.val, and at their label files",
                "swapped ROOT/val: val has 6 images, which is what train of The Set has; val has 3 there: val and "
                "train are exchanged. Look at data.val and data.train, and at their label files",
            ],
        ),
        (
            {"train": 6, "val": 6},
            [
                "swapped ROOT/val: val has 6 images, which is what train of The Set has; val has 3 there: train "
                "stands in the place of val. Look at data.val and data.train, and at their label files"
            ],
        ),
        ({"imagenet-a": 2}, []),
    ],
)
def test_numbers_of_images(tmp_path: Path, sizes: dict[str, int], expected: list[str]) -> None:
    report = checked(sized(tmp_path, **sizes), tmp_path, facts({"train": 6, "val": 3}), quick=True)
    found = [f"{each.kind} {each.where}: {each.message}" for each in report.findings]
    assert found == [line.replace("ROOT", str(tmp_path)) for line in expected]


def test_without_facts_more_validation_than_training_images_are_a_note(tmp_path: Path) -> None:
    report = checked(sized(tmp_path, train=2, val=3), tmp_path, quick=True)
    assert (kinds(report), report.ok) == (["(swapped)"], True)
    assert "val has 3 images and train 2" in report.findings[0].message
    assert checked(sized(tmp_path, train=3, val=3), tmp_path, quick=True).findings == []


def test_numbers_and_order_of_classes(tmp_path: Path) -> None:
    known = facts({"train": 3}, ["ant", "bee", "cat"])

    def found(classes: list[str], labels: list[int]) -> list[str]:
        train = part(tmp_path / "train", CONTENTS[:3], classes=classes, labels=labels)
        report = checked([train], tmp_path, known, quick=True)
        return [f"{each.kind}: {each.message}" for each in report.findings]

    assert found(["ant", "bee", "cat"], [0, 1, 2]) == []
    assert found(["ant", "bee"], [0, 1, 1]) == [
        "wrong-count: train has 2 classes, but The Set has 3: ant, bee"
    ]
    assert found(["ant", "cat", "bee"], [0, 1, 2]) == [
        "class-order: the classes of train are not those of The Set: sorted by name they would be, so the order of "
        "the class list is wrong. They are ant, cat, bee"
    ]
    (other,) = found(["ant", "bee", "dog"], [0, 1, 2])
    assert other.startswith(
        "class-order: the classes of train are not those of The Set: names or order differ"
    )
    assert found(["ant", "bee", "cat"], [0, 2, 2]) == ["missing-class: train has no image of the class 'bee'"]


# ---------------------------------------------------------------- the report


def test_the_report_for_people(tmp_path: Path) -> None:
    train = part(tmp_path / "train", CONTENTS[:5], classes=["ant", "bee"], labels=[0, 0, 0, 0, 1])
    survey = Survey("the-set", [train, part(tmp_path / "val", [b"4"])], fingerprint="f00d")
    survey.findings = [
        Finding("duplicate", "somewhere", "twice", note=True),
        *(Finding("annotation", f"file {number}", "is odd") for number in range(22)),
        Finding("layout", "data.test", "is not there"),
    ]
    lines = checked(survey, tmp_path).as_text().splitlines()
    assert lines[:4] == [
        "data check of the-set: 24 faults and 1 note",
        "",
        f"  train: 5 images, 2 classes (1 to 4 each, median 2.5): {tmp_path}/train",
        f"  val: 1 image: {tmp_path}/val",
    ]
    assert lines[4].startswith("  6 images read in 0 s, ")
    assert lines[5:10] == [
        "  fingerprint f00d",
        "",
        "FAULT: layout (1)",
        "  data.test: is not there",
        "",
    ]
    assert lines[10:13] == ["FAULT: annotation (22)", "  file 0: is odd", "  file 1: is odd"]
    assert lines[30:33] == ["  file 19: is odd", "  and 2 more: see the report", ""]
    assert lines[33] == "FAULT: leak (1)"
    assert lines[-2:] == ["note: duplicate (1)", "  somewhere: twice"]


def test_the_report_for_programs(tmp_path: Path) -> None:
    train = part(tmp_path / "train", CONTENTS[:4], classes=["ant", "bee"], labels=[0, 0, 1, 1])
    (tmp_path / "train" / "0001").unlink()
    report = json.loads(checked(Survey("the-set", [train], fingerprint="f00d"), tmp_path).as_json())
    seconds, rate = report.pop("seconds"), report.pop("images_per_second")
    assert 0 < seconds < 60
    assert rate == pytest.approx(4 / seconds, rel=0.5)
    path = f"{tmp_path}/train/0001"
    assert report == {
        "schema": 1,
        "dataset": "the-set",
        "fingerprint": "f00d",
        "ok": False,
        "quick": False,
        "counts": {
            "train": {
                "where": f"{tmp_path}/train",
                "images": 4,
                "classes": 2,
                "per_class": {"least": 2, "median": 2.0, "most": 2},
            }
        },
        "checked": 4,
        "resumed": 0,
        "bad_files": [path],
        "findings": [
            {"kind": "missing-file", "where": path, "message": "No such file or directory", "note": False}
        ],
    }
