#!/usr/bin/env python3
"""Writes tricky.csv: 400 invented rows whose text is hard on readers of CSV.

Header names and values hold spaces, signs, comparison signs, ampersands, quotes, commas and Unicode;
numbers come with signs, exponents and leading zeros. The target follows the features, so a model must
be able to learn it (pooled logistic regression: AUC above 0.85 on fold 0).

Usage: make_tricky.py > tricky.csv
"""

import csv
import math
import random
import sys

ROWS = 400
FOLDS = 5
TARGET = "repaid in full?"
YES, NO = "yes (> 99 %)", "no / <= 99 %"

# Each level with its weight in the score.
JOBS = {
    "clerk, part-time": -0.6,
    'so-called "expert"': 0.9,
    "R&D <lab>": 1.2,
    "+1 adviser": 0.3,
    "-": -0.9,
    " leading space": 0.0,
}
TOWNS = {
    "Zürich": 0.8,
    "Łódź": -0.4,
    "São Paulo": 0.2,
    "東京": 0.5,
    "O'Hara's Place": -0.7,
    "a = b; c": -0.3,
}
BANDS = {"< 10": -1.0, ">= 10 & < 20": 0.0, "> 20": 1.0}

HEADER = [
    "id",
    "annual income (k€)",
    "+/- change, %",
    "years <at> bank",
    "job title",
    "town & country",
    'band "x"',
    TARGET,
    "fold",
]


def number(style: int, value: float) -> str:
    """The same value in one of four spellings."""
    return (f"{value:.2f}", f"{value:+.2f}", f"{value:.3e}", f"{value:08.2f}")[style]


def main() -> None:
    draw = random.Random(20_011)
    normal = lambda: sum(draw.random() for _ in range(12)) - 6.0
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(HEADER)
    for row in range(ROWS):
        income, change, years = 60.0 + 20.0 * normal(), 4.0 * normal(), 1.0 + 20.0 * draw.random()
        job, town, band = (draw.choice(list(levels)) for levels in (JOBS, TOWNS, BANDS))
        score = (income - 60.0) / 20.0 + change / 4.0 + 0.05 * (years - 11.0)
        score += JOBS[job] + TOWNS[town] + BANDS[band]
        positive = draw.random() < 1.0 / (1.0 + math.exp(-2.5 * score))
        out.writerow([
            f"#{row:04d} é",
            number(row % 4, income),
            number((row // 4) % 3, change),
            f"{years:.1f}",
            job,
            town,
            band,
            YES if positive else NO,
            row % FOLDS,
        ])


if __name__ == "__main__":
    main()
