#!/usr/bin/env python3
"""Pooled logistic regression, recomputed outside the binary with the standard library only.

    pooled_logistic.py --data FILE.csv[.gz] --target COLUMN --fold K [--categorical a,b,c]
                       [--ignore d,e] [--lambda 1e-3] [--model model.json]

Trains on the rows whose `fold` is not K (row number mod 5 where the file has no such column) and
prints {"auc": ..} of the rows whose fold is K. The model minimises mean log-loss +
lambda / 2 |w|^2, biases free, by Newton's method; softmax for more than two classes, which takes
minutes where many classes meet many numbers. Numbers are standardised by mean and population
deviation of the training rows, categories one-hot with all levels of the file but very rare ones.
More than two classes: unweighted mean of one-versus-rest AUC over classes with at least 10 held-out
rows.

With --model, nothing is trained: the model of the file is scored on the same rows. Its keys:
    target, classes   as in the job's schema
    columns           features in order: `column` for a number, `column=level`, `column=(other)` last
    numeric           column -> [mean, standard deviation] (0: the feature is 0)
    range             column -> [lowest, highest], to which values are clipped first
    levels            category column -> its levels, without (other)
    weights, bias     a row of weights and a bias per output; one output for two classes
    hidden            null, or {"weights": .., "bias": ..} of a layer of rectified units
"""

import argparse
import csv
import gzip
import io
import json
import math
from collections import Counter

LEVELS = 128  # most levels of a category; rarer ones share one feature
MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}


def number(text):
    """A finite number or None; spellings that only Python knows, such as 1_000, are text."""
    if "_" in text or not text.isascii():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def canonical(text):
    """One spelling per value: 1, 1.0 and +1 are the same level."""
    value = number(text)
    return text if value is None else (value + 0.0)


def natural(value):
    return (0, value, "") if isinstance(value, float) else (1, 0.0, value)


def read_table(path):
    with open(path, "rb") as file:
        raw = file.read()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
        if row
    ]
    return rows[0], rows[1:]


def auc(scores, positive):
    """Share of (positive, negative) pairs in the right order, ties counting half."""
    pairs = sorted(zip(scores, positive))
    wins, below, i = 0.0, 0, 0
    while i < len(pairs):
        j = i
        while j < len(pairs) and pairs[j][0] == pairs[i][0]:
            j += 1
        up = sum(is_positive for _, is_positive in pairs[i:j])
        down = j - i - up
        wins += up * (below + down / 2)
        below += down
        i = j
    return wins / (below * (len(pairs) - below))


def macro_auc(probabilities, labels, classes):
    if classes == 2:
        return auc([p[1] for p in probabilities], [label == 1 for label in labels])
    areas = []
    for c in range(classes):
        positive = [label == c for label in labels]
        if 10 <= sum(positive) < len(labels):
            areas.append(auc([p[c] for p in probabilities], positive))
    return sum(areas) / len(areas)


def softmax(scores):
    if len(scores) == 1:
        decay = math.exp(-abs(scores[0]))
        p = (1.0 if scores[0] >= 0 else decay) / (1.0 + decay)
        return [1.0 - p, p]
    top = max(scores)
    values = [math.exp(score - top) for score in scores]
    total = sum(values)
    return [value / total for value in values]


def factor(matrix):
    """Cholesky: rows of the lower triangle."""
    lower = []
    for i, row in enumerate(matrix):
        out = []
        for j in range(i + 1):
            known = out if i == j else lower[j]
            rest = row[j] - sum(a * b for a, b in zip(out[:j], known[:j]))
            out.append(math.sqrt(max(rest, 1e-12)) if i == j else rest / lower[j][j])
        lower.append(out)
    return lower


def solve(lower, b):
    size = len(b)
    x = []
    for i in range(size):
        x.append((b[i] - sum(a * v for a, v in zip(lower[i], x))) / lower[i][i])
    for i in reversed(range(size)):
        x[i] = (x[i] - sum(lower[k][i] * x[k] for k in range(i + 1, size))) / lower[i][i]
    return x


def frequent(values):
    """Rare levels replaced by one; nothing for a long column without repetition, a name."""
    counts = Counter(values)
    if len(counts) == len(values) and len(counts) > LEVELS:
        return []
    kept = sorted(counts, key=lambda level: (-counts[level], natural(level)))[:LEVELS]
    kept = set(kept)
    return [value if value in kept else "(other)" for value in values]


class Design:
    """Rows as (dense values, features that are 1), so that one-hot columns cost nothing.

    The features are the dense ones, then the levels, then the bias, which is 1 in every row.
    """

    def __init__(self, header, rows, train, target, categorical, ignored):
        skip = {"id", "fold", "", target, *ignored}
        self.dense, self.ones, self.width = [[] for _ in rows], [[] for _ in rows], 0
        levels_of = []
        for column, name in enumerate(header):
            if name in skip:
                continue
            texts = [row[column] for row in rows]
            present = [text for text in texts if text.lower() not in MISSING]
            if name in categorical or any(number(text) is None for text in present):
                levels_of.append(frequent([canonical(text) for text in texts]))
                continue
            if not present:
                continue
            values = [float(text) for text in texts]
            mean = math.fsum(values[i] for i in train) / len(train)
            variance = math.fsum((values[i] - mean) ** 2 for i in train) / len(train)
            deviation = math.sqrt(variance)
            for out, value in zip(self.dense, values):
                out.append((value - mean) / deviation if deviation > 0 else 0.0)
            self.width += 1
        self.numeric = self.width
        for values in filter(None, levels_of):
            index = {level: i for i, level in enumerate(sorted(set(values), key=natural))}
            for out, value in zip(self.ones, values):
                out.append(self.width + index[value])
            self.width += len(index)
        self.bias = self.width
        for out in self.ones:
            out.append(self.bias)
        self.width += 1

    def score(self, w, i):
        total = sum(map(float.__mul__, w, self.dense[i]))
        for feature in self.ones[i]:
            total += w[feature]
        return total

    def gradient(self, rows, weights):
        """X' weights."""
        out = [0.0] * self.width
        columns = list(zip(*(self.dense[i] for i in rows)))
        for j, column in enumerate(columns):
            out[j] = sum(map(float.__mul__, column, weights))
        for i, weight in zip(rows, weights):
            for feature in self.ones[i]:
                out[feature] += weight
        return out

    def gram(self, rows, weights):
        """X' diag(weights) X."""
        size, numeric = self.width, self.numeric
        out = [[0.0] * size for _ in range(size)]
        columns = list(zip(*(self.dense[i] for i in rows)))
        for j in range(numeric):
            scaled = list(map(float.__mul__, columns[j], weights))
            for k in range(j + 1):
                out[j][k] = out[k][j] = sum(map(float.__mul__, scaled, columns[k]))
            for i, value in zip(rows, scaled):
                for feature in self.ones[i]:
                    out[feature][j] += value
        for i, weight in zip(rows, weights):
            for a in self.ones[i]:
                row = out[a]
                for b in self.ones[i]:
                    row[b] += weight
        for feature in range(numeric, size):
            for j in range(numeric):
                out[j][feature] = out[feature][j]
        return out


def add_ridge(matrix, penalty, bias):
    for j, row in enumerate(matrix):
        row[j] += (penalty if j != bias else 0.0) + 1e-12
    return matrix


def fit_binary(design, rows, labels, penalty):
    w, n = [0.0] * design.width, len(rows)
    for _ in range(50):
        p = [softmax([design.score(w, i)])[1] for i in rows]
        g = design.gradient(rows, [(p - (labels[i] == 1)) / n for i, p in zip(rows, p)])
        g = [g + (penalty * w if j != design.bias else 0.0) for j, (g, w) in enumerate(zip(g, w))]
        if max(map(abs, g)) < 1e-8:
            break
        hessian = design.gram(rows, [p * (1 - p) / n for p in p])
        step = solve(factor(add_ridge(hessian, penalty, design.bias)), g)
        w = [w - s for w, s in zip(w, step)]
    return [w]


def fit_softmax(design, rows, labels, penalty, classes):
    """Newton's method over all classes at once, with steps halved until the objective falls."""
    n, width = len(rows), design.width
    biases = {c * width + design.bias for c in range(classes)}
    w = [0.0] * (classes * width)

    def blocks(w):
        return [w[c * width:(c + 1) * width] for c in range(classes)]

    def evaluate(w):
        split = blocks(w)
        p = [softmax([design.score(block, i) for block in split]) for i in rows]
        loss = -sum(math.log(max(p[labels[i]], 1e-300)) for i, p in zip(rows, p)) / n
        squares = sum(v * v for j, v in enumerate(w) if j not in biases)
        return loss + penalty / 2 * squares, p

    value, p = evaluate(w)
    for _ in range(100):
        g = []
        for c in range(classes):
            g += design.gradient(rows, [(p[c] - (labels[i] == c)) / n for i, p in zip(rows, p)])
        g = [g + (penalty * w if j not in biases else 0.0) for j, (g, w) in enumerate(zip(g, w))]
        if max(map(abs, g)) < 1e-6:
            break
        hessian = [[0.0] * len(w) for _ in w]
        for a in range(classes):
            for b in range(a + 1):
                block = design.gram(rows, [p[a] * ((a == b) - p[b]) / n for p in p])
                for j, row in enumerate(block):
                    hessian[a * width + j][b * width:(b + 1) * width] = row
        for j, row in enumerate(hessian):
            # Equal shifts of all biases change nothing; the small term only picks one of them.
            row[j] += 1e-8 if j in biases else penalty
        step = solve(factor(hessian), g)
        scale = 1.0
        while True:
            after = [w - scale * s for w, s in zip(w, step)]
            value_after, p_after = evaluate(after)
            if value_after <= value or scale < 1e-6:
                break
            scale /= 2
        w, value, p = after, value_after, p_after
    return blocks(w)


def score_model(model, header, rows, test):
    """Class probabilities of the model in a file."""
    place = {name: i for i, name in enumerate(header)}
    readers = []
    for name in model["columns"]:
        if name in model["numeric"]:
            mean, deviation = model["numeric"][name]
            low, high = model["range"][name]

            def read(row, column=place[name], mean=mean, dev=deviation, low=low, high=high):
                value = min(max(float(row[column]), low), high)
                return (value - mean) / dev if dev > 0 else 0.0

            readers.append(read)
    # Categories in schema order: the features name them, but a name may itself hold "=".
    features, position = [], 0
    names = model["columns"]
    numeric = iter(readers)
    while position < len(names):
        if names[position] in model["numeric"]:
            features.append(("number", next(numeric)))
            position += 1
            continue
        column, levels = next(
            (column, levels)
            for column, levels in model["levels"].items()
            if names[position] == f"{column}={levels[0]}"
            and names[position + len(levels)] == f"{column}=(other)"
        )
        index = {canonical(level): i for i, level in enumerate(levels)}
        features.append(("levels", (place[column], index, len(levels))))
        position += len(levels) + 1

    def row_features(row):
        out = []
        for kind, what in features:
            if kind == "number":
                out.append(what(row))
            else:
                column, index, count = what
                hot = [0.0] * (count + 1)
                hot[index.get(canonical(row[column]), count)] = 1.0
                out.extend(hot)
        return out

    def layer(part, x):
        return [sum(map(float.__mul__, map(float, w), x)) + b
                for w, b in zip(part["weights"], part["bias"])]

    probabilities = []
    for i in test:
        x = row_features(rows[i])
        if model.get("hidden"):
            x = [max(value, 0.0) for value in layer(model["hidden"], x)]
        probabilities.append(softmax(layer(model, x)))
    return probabilities


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CSV file, gzipped or not")
    parser.add_argument("--target", required=True, help="column to predict")
    parser.add_argument("--fold", type=int, required=True, help="fold that is held out")
    parser.add_argument("--categorical", default="", help="columns that hold codes")
    parser.add_argument("--ignore", default="", help="columns to leave out")
    parser.add_argument("--lambda", dest="penalty", type=float, default=1e-3)
    parser.add_argument("--model", help="score this model file instead of training")
    args = parser.parse_args()

    header, rows = read_table(args.data)
    if "fold" in header:
        folds = [int(row[header.index("fold")]) for row in rows]
    else:
        folds = [i % 5 for i in range(len(rows))]
    train = [i for i, fold in enumerate(folds) if fold != args.fold]
    test = [i for i, fold in enumerate(folds) if fold == args.fold]
    target = header.index(args.target)
    model = None
    if args.model:
        with open(args.model, encoding="utf-8") as file:
            model = json.load(file)
        classes = [canonical(name) for name in model["classes"]]
    else:
        classes = sorted({canonical(row[target]) for row in rows}, key=natural)
    index = {name: i for i, name in enumerate(classes)}
    labels = [index[canonical(row[target])] for row in rows]

    if model:
        probabilities = score_model(model, header, rows, test)
    else:
        categorical = {name for name in args.categorical.split(",") if name}
        ignored = {name for name in args.ignore.split(",") if name}
        design = Design(header, rows, train, args.target, categorical, ignored)
        if len(classes) == 2:
            w = fit_binary(design, train, labels, args.penalty)
        else:
            w = fit_softmax(design, train, labels, args.penalty, len(classes))
        probabilities = [softmax([design.score(block, i) for block in w]) for i in test]
    held_out = [labels[i] for i in test]
    area = macro_auc(probabilities, held_out, len(classes))
    right = sum(p.index(max(p)) == label for p, label in zip(probabilities, held_out))
    print(json.dumps({"auc": area, "accuracy": right / len(test), "rows": len(test)}))


if __name__ == "__main__":
    main()
