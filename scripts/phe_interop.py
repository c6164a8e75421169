#!/usr/bin/env python3
"""python-paillier and Quorate read each other's ciphertexts.

Usage: phe_interop.py OURS THEIRS

OURS was written by Quorate: every party's ciphertexts and their sum are decrypted here with the
primes and must hold the values it states. THEIRS is written for Quorate: ciphertexts made here, packed
the same way.
"""

import json
import pathlib
import random
import sys

import phe

MODULUS_BITS = 3072


def width(bits, parties):
    return bits + (parties - 1).bit_length() + 1


def slots(bits, parties):
    return (MODULUS_BITS - 1) // width(bits, parties)


def pack(values, bits, parties):
    """One integer per ciphertext: value k, made positive, in digit k."""
    each = slots(bits, parties)
    return [
        sum(
            (value + 2 ** (bits - 1)) << (width(bits, parties) * k)
            for k, value in enumerate(values[first : first + each])
        )
        for first in range(0, len(values), each)
    ]


def unpack(plaintexts, count, bits, parties, members):
    step = width(bits, parties)
    each = slots(bits, parties)
    out = [
        (plaintexts[k // each] >> (step * (k % each))) % 2**step - members * 2 ** (bits - 1)
        for k in range(count)
    ]
    # Nothing is left above the last value.
    last = count - each * (len(plaintexts) - 1)
    assert plaintexts[-1] >> (step * last) == 0
    return out


def main():
    ours, theirs = (pathlib.Path(path) for path in sys.argv[1:])
    given = json.loads(ours.read_text())
    p, q = (int(given[prime], 16) for prime in "pq")
    public = phe.PaillierPublicKey(p * q)
    assert public.g == public.n + 1 and public.n.bit_length() == MODULUS_BITS
    private = phe.PaillierPrivateKey(public, p, q)
    bits, most, parties = given["bits"], given["most_parties"], given["parties"]

    def read(ciphertexts, members):
        plaintexts = [private.raw_decrypt(int(c, 16)) for c in ciphertexts]
        return unpack(plaintexts, len(parties[0]["values"]), bits, most, members)

    for party in parties:
        assert read(party["ciphertexts"], 1) == party["values"], "a party's values differ"
    expected = [sum(column) for column in zip(*(party["values"] for party in parties))]
    assert min(expected) < 0 < max(expected)
    assert read(given["sum"], len(parties)) == expected, "the sum differs"
    print(f"phe {phe.__version__} read {len(expected)} values of {len(parties)} parties and their sum")

    drawn = random.Random(1)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    made = []
    for _ in range(most):
        values = [low, high, -1, 0, 1]
        values += [drawn.randint(low, high) for _ in range(len(expected) - len(values))]
        plain = pack(values, bits, most)
        encrypted = [public.raw_encrypt(plaintext) for plaintext in plain]
        # Of c and n^2 - c, which hold the same plaintext, the lesser is written.
        lesser = [min(c, public.nsquare - c) for c in encrypted]
        assert [private.raw_decrypt(c) for c in lesser] == plain
        ciphertexts = [format(c, f"0{MODULUS_BITS // 2}x") for c in lesser]
        made.append({"values": values, "ciphertexts": ciphertexts})
    total = [sum(column) for column in zip(*(party["values"] for party in made))]
    theirs.write_text(json.dumps({"parties": made, "sum": total}))


if __name__ == "__main__":
    main()
