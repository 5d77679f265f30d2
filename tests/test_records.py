import json

import pytest

from jcw import records

RECORD = {'name': 'naïve', 'numbers': [1, 2.5, -(2**62), 1e-300], 'inner': {'b': None, 'a': True}}


def test_a_record_is_read_as_it_was_summed():
    text = json.dumps(records.summed(RECORD), indent=3)
    assert records.checked(records.parse(text.encode())) == RECORD


def test_the_order_of_keys_and_the_layout_are_free():
    turned = dict(reversed(records.summed(RECORD).items()))
    assert records.checked(records.parse(json.dumps(turned, indent=1))) == RECORD


def test_no_flipped_bit_passes_unless_it_changes_no_value():
    text = json.dumps(records.summed(RECORD)).encode()
    for place in range(len(text) * 8):
        flipped = bytearray(text)
        flipped[place // 8] ^= 1 << place % 8
        try:
            found = records.checked(records.parse(bytes(flipped)))
        except ValueError:
            continue
        assert found == RECORD


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[' * 100_000, 'nested too deep'),
        ('{"a":' * 100_000, 'nested too deep'),
        ('{"a": 1, "a": 2}', "key 'a' comes twice"),
        ('[NaN]', 'NaN is not a number'),
        ('[-Infinity]', '-Infinity is not a number'),
        ('[1e999]', '1e999 is too large'),
        (f'[{10**400}]', '401 digits is too large'),
        (f'[{"1" * 5000}]', '5000 digits is too large'),
        (b'"\xff"', 'utf-8'),
        ('"\\ud800"', 'surrogates not allowed'),
        ('', 'Expecting value'),
    ],
)
def test_what_json_cannot_mean_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        records.parse(text)


@pytest.mark.parametrize(
    ('record', 'message'),
    [([1], 'a list, not an object'), ({'a': 1}, 'states no checksum'), ({'sha256': 'x'}, 'checksum differs')],
)
def test_a_record_without_its_checksum_is_refused(record, message):
    with pytest.raises(ValueError, match=message):
        records.checked(record)
