from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.engines.releases import (
    RELEASES,
    has_dla,
    parse_release,
    release_of,
    releases_between,
    spell_version,
)
from graphopt.errors import UsageError

VERSIONS = st.tuples(st.integers(8, 12), st.integers(0, 20), st.integers(0, 9)).filter(
    lambda v: v >= (8, 5, 0)
)


def test_newer_lines_take_no_less():
    assert list(RELEASES) == sorted(RELEASES, key=lambda r: r.version)
    opsets = [release.max_opset for release in RELEASES]
    assert opsets == sorted(opsets)
    assert [r.name for r in RELEASES if not r.int8_weights] == ["8.5", "8.6"]
    for before, after in itertools.pairwise(RELEASES):
        assert after.int8_weights >= before.int8_weights
        assert after.strong_typing >= before.strong_typing
        assert after.implicit <= before.implicit
        assert after.weak_typing <= before.weak_typing
    # A release without one typing has the other; calibrators went with weak typing.
    assert all(r.strong_typing or r.weak_typing for r in RELEASES)
    assert all(r.implicit == r.weak_typing for r in RELEASES)


@pytest.mark.parametrize(
    ("text", "opset", "fp16_scales", "int4"),
    [
        ("8.5.2", 17, False, False),
        ("8.6.1.6", 17, False, False),
        ("9.2", 17, False, False),
        ("10.0", 20, True, False),
        ("10.3.0", 20, True, False),
        ("10.9", 22, True, True),
        ("10.15", 24, True, True),
        ("11.2", 24, True, True),
        ("11.5", 25, True, True),
        ("12", 25, True, True),
    ],
)
def test_what_a_version_takes(text, opset, fp16_scales, int4):
    release = release_of(parse_release(text))
    assert (release.max_opset, release.fp16_scales, release.int4_weights) == (
        opset, fp16_scales, int4,
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "v8.5", "8,5", "ten", "8.5-2", "٨.٥"])
def test_what_is_no_version_is_told(text):
    with pytest.raises(UsageError, match=r"is not a version of TensorRT: write it like 8\.5\.2"):
        parse_release(text)


def test_what_is_too_old_is_told():
    with pytest.raises(UsageError, match=r"TensorRT 8\.4\.1 is older than graphopt builds for"):
        release_of((8, 4, 1))


@given(VERSIONS)
def test_versions_are_spelled_and_read_back(version):
    assert parse_release(spell_version(version)) == version
    assert parse_release(f" {'.'.join(map(str, version))}.17 ") == version


@given(VERSIONS, VERSIONS)
def test_the_lines_of_a_range_are_those_of_its_versions(a, b):
    oldest, newest = sorted((a, b))
    found = releases_between(oldest, newest)
    assert found[0] is release_of(oldest)
    assert found[-1] is release_of(newest)
    assert releases_between(oldest, None)[-1] is RELEASES[-1]
    assert releases_between(None, newest)[0] is RELEASES[0]


def test_what_is_older_than_all_lines_is_left_out():
    assert releases_between((8, 0, 0), (8, 4, 0)) == ()
    assert releases_between((7, 0, 0), (8, 5, 1)) == RELEASES[:1]


@pytest.mark.parametrize(
    ("version", "dla"),
    [
        ((8, 5, 2), True), ((8, 6, 0), True), ((10, 7, 0), True), ((10, 7, 2), True),
        ((10, 8, 0), False), ((10, 16, 2), False), ((11, 0, 0), False), ((11, 4, 0), False),
        ((11, 4, 1), True), ((11, 5, 0), True),
    ],
)  # fmt: skip
def test_which_versions_build_for_a_dla(version, dla):
    assert has_dla(version) is dla
