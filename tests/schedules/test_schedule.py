"""The Schedule itself: read-only, phases, fingerprint, file."""

import hashlib
import struct
import zipfile

import numpy as np
import pytest

from schedules import Phase, Schedule, build, fingerprint

DOCUMENT = {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup": 10, "total": 100}


@pytest.fixture
def schedule():
    return build(DOCUMENT)


def test_nobody_changes_it_by_accident(schedule):
    with pytest.raises(ValueError, match="read-only"):
        schedule.lr[0] = 1
    with pytest.raises(AttributeError):
        schedule.lr = schedule.lr


def test_phases_lie_end_to_end(schedule):
    assert schedule.phases == (Phase("warm-up", 0, 10), Phase("peak", 10, 11), Phase("decay", 11, 100))
    for t in (-1, 100):
        with pytest.raises(ValueError, match=f"t = {t}: the schedule has the steps 0 … 99"):
            schedule.phase_at(t)


@pytest.mark.parametrize(
    "lr, phases",
    [
        (np.ones(3), (Phase("a", 0, 3),)),
        (np.ones((3, 1), np.float32), (Phase("a", 0, 3),)),
        (np.ones(0, np.float32), ()),
        (np.ones(3, np.float32), (Phase("a", 0, 2),)),
        (np.ones(3, np.float32), (Phase("a", 0, 1), Phase("b", 2, 3))),
        (np.ones(3, np.float32), (Phase("a", 0, 3), Phase("b", 3, 3))),
        (np.array([1, np.nan], np.float32), (Phase("a", 0, 2),)),
        (np.array([1, np.inf], np.float32), (Phase("a", 0, 2),)),
        (np.array([1, -1], np.float32), (Phase("a", 0, 2),)),
    ],
)
def test_refuses_what_is_no_schedule(lr, phases):
    with pytest.raises(ValueError, match=r"^(lr|phases) must"):
        Schedule(lr, phases)


def test_the_fingerprint_is_a_hash_of_dtype_length_and_little_endian_bytes(schedule):
    packed = b"float32[100]" + struct.pack("<100f", *schedule.lr.tolist())
    assert schedule.fingerprint == hashlib.sha256(packed).hexdigest()[:12]
    assert schedule.fingerprint == fingerprint(schedule.lr.astype(">f4"))
    assert schedule.fingerprint == "1f3f60cd3525"  # on every machine


def test_one_bit_or_one_step_changes_the_fingerprint(schedule):
    other = schedule.lr.copy()
    other[57] = np.nextafter(other[57], np.float32(1))
    zeros = np.zeros(4, np.float32)
    prints = {schedule.fingerprint, fingerprint(other), fingerprint(schedule.lr[:-1])}
    assert len(prints) == 3 and fingerprint(zeros) != fingerprint(zeros[:3])


def test_the_file_holds_no_pickle_and_no_partial_file_is_left(schedule, tmp_path):
    schedule.save(tmp_path / "schedule.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.npz"]
    with np.load(tmp_path / "schedule.npz", allow_pickle=False) as stored:
        assert np.array_equal(stored["lr"], schedule.lr)


def test_damage_anywhere_in_the_file_is_refused_or_harmless(schedule, tmp_path):
    """Every byte is flipped in turn: either the load refuses, or the schedule is still the same."""
    good, bad = tmp_path / "schedule.npz", tmp_path / "damaged.npz"
    schedule.save(good)
    content = good.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        bad.write_bytes(damaged)
        try:
            assert Schedule.load(bad) == schedule
        except ValueError as error:
            assert str(error).startswith(f"{bad}: ")
            refused += 1
    assert refused > 200  # the 400 bytes of the array alone are a hundred and more of the positions


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", b"\x93NUMPY\x01\x00"])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "schedule.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a schedule, or damaged"):
        Schedule.load(path)


def test_a_truncated_file_and_a_forged_one_are_refused(schedule, tmp_path):
    path = tmp_path / "schedule.npz"
    schedule.save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 50):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a schedule, or damaged"):
            Schedule.load(path)
    np.savez(path, lr=schedule.lr * 2, fingerprint=schedule.fingerprint, phase_names=["a"], phase_stops=[100])
    with pytest.raises(ValueError, match="stored fingerprint 1f3f60cd3525"):
        Schedule.load(path)
    np.savez(path, something=1)
    with pytest.raises(ValueError, match="not a schedule"):
        Schedule.load(path)
    assert zipfile.is_zipfile(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Schedule.load(tmp_path / "schedule.npz")
