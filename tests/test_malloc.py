"""Devices and the memory of a process."""

import ctypes
import platform
from types import SimpleNamespace

import pytest

from fairfal_flwr.malloc import keep_freed_memory


@pytest.fixture
def set_thresholds(monkeypatch):
    """Return what glibc is told, by the parameter's number in malloc.h."""
    told = {}
    library = SimpleNamespace(mallopt=told.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    return told


def test_glibc_is_told_to_keep_what_is_freed(monkeypatch, set_thresholds):
    """M_TRIM_THRESHOLD is -1, M_TOP_PAD -2 and M_MMAP_THRESHOLD -3."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.40"))
    keep_freed_memory()
    assert set_thresholds == {-1: 2**30, -2: 2**26, -3: 2**30}


def test_another_library_is_left_alone(monkeypatch, set_thresholds):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    keep_freed_memory()
    assert set_thresholds == {}
