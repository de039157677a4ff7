from __future__ import annotations

import numpy as np
import pytest

from dp_risk.privacy.randomness import Randomness


def test_the_stream_is_chacha20():
    # RFC 8439, appendix A.1, test vector 1: zero key, zero nonce, counter zero.
    first = Randomness(bytes(32)).words(2).tobytes().hex()
    assert first == "76b8e0ada0f13d90405d6ae55386bd28"


def test_seeded_streams_repeat_and_differ_by_every_word_of_context():
    streams = [
        Randomness.seeded(1, "site", 2).words(4),
        Randomness.seeded(2, "site", 2).words(4),
        Randomness.seeded(1, "other", 2).words(4),
        Randomness.seeded(1, "site", 3).words(4),
        Randomness.seeded(1, "site2").words(4),
        Randomness.seeded(1, "site").words(4),
        Randomness.seeded(12, "site").words(4),
    ]
    assert len({s.tobytes() for s in streams}) == len(streams)
    assert (Randomness.seeded(1, "site", 2).words(4) == streams[0]).all()


def test_system_streams_never_repeat():
    assert len({Randomness.system().words(4).tobytes() for _ in range(50)}) == 50


def test_a_stream_goes_on_and_does_not_start_again():
    split, whole = Randomness.seeded(3), Randomness.seeded(3).words(100)
    assert (np.concatenate([split.words(30), split.words(0), split.words(70)]) == whole).all()
    assert len(set(whole.tolist())) == 100


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_256_bits(size):
    with pytest.raises(ValueError, match="32 bytes"):
        Randomness(bytes(size))


@pytest.mark.statistical
def test_every_bit_is_fair():
    # 64 bits, 6.5 standard deviations two-sided: flake rate below 64 * 8.1e-11 = 5.2e-9.
    n = 20_000
    words = Randomness.system().words(n)
    ones = np.array([int(((words >> np.uint64(b)) & np.uint64(1)).sum()) for b in range(64)])
    assert (abs(ones - n / 2) < 6.5 * np.sqrt(n / 4)).all()
