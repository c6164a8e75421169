"""Mean-pools a table of 28x28 images to 7x7: python3 make_mnist7.py mnist.csv.gz > mnist7.csv.gz"""

import csv
import gzip
import io
import sys

SIDE, WINDOW = 28, 4
SMALL = SIDE // WINDOW

rows = csv.reader(gzip.open(sys.argv[1], "rt"))
header = next(rows)
pixels = [i for i, name in enumerate(header) if name[:1] == "p" and name[1:].isdigit()]
others = [i for i in range(len(header)) if i not in set(pixels)]
assert len(pixels) == SIDE * SIDE
out = io.StringIO()
table = csv.writer(out, lineterminator="\n")
names = [f"q{i // SMALL}_{i % SMALL}" for i in range(SMALL * SMALL)]
table.writerow(names + [header[i] for i in others])
for row in rows:
    sums = [0] * (SMALL * SMALL)
    for place, column in enumerate(pixels):
        sums[place // SIDE // WINDOW * SMALL + place % SIDE // WINDOW] += int(row[column])
    # Whole grey values, half to even.
    table.writerow([round(x / WINDOW**2) for x in sums] + [row[i] for i in others])
sys.stdout.buffer.write(gzip.compress(out.getvalue().encode(), 9, mtime=0))
