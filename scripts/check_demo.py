#!/usr/bin/env python3
"""Second opinion on a demo: its JSON is complete, its model equals the plain one, and its metric is
within a tolerance of pooled logistic regression trained by a script that shares no code with it.

Usage: check_demo.py [--out demo-out] [--tolerance 0.01] | --self-test

demo.json must have the keys metric, pooled_metric, model_hash, plain_model_hash, rounds and bytes_up.
Its optional keys data_file, target, fold, categorical and ignored (lists) say what was trained; without
them the demo's defaults are taken. A neural network (key model) need not score as logistic regression,
nor does another model than that of a vertical job, or one with label noise (key label_epsilon); what a
vertical job loses by leaving out rows that not all parties have is within the tolerance.
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULTS = {
    "data_file": "data/credit_default.csv.gz",
    "target": "default",
    "fold": 0,
    "categorical": ["sex", "education", "marriage"],
    "ignored": [],
}


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_hash(value):
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


KEYS = {
    "metric": is_number,
    "pooled_metric": is_number,
    "model_hash": is_hash,
    "plain_model_hash": is_hash,
    "rounds": is_count,
    "bytes_up": is_count,
}


def faults_of(demo, recomputed, tolerance):
    """Everything that is wrong, in words. `recomputed` has metrics by name, from outside the binary."""
    faults = [f"{key} is missing or no sensible value: {demo.get(key)!r}"
              for key, sensible in KEYS.items() if not sensible(demo.get(key))]
    if faults:
        return faults
    if demo["model_hash"] != demo["plain_model_hash"]:
        faults.append(f"the model {demo['model_hash']} is not the plain one {demo['plain_model_hash']}")
    pooled = {"the demo's own pooled metric": demo["pooled_metric"],
              "pooled metric outside the binary": recomputed.get("pooled")}
    for name, value in pooled.items():
        if not is_number(value):
            faults.append(f"{name} is no number: {value!r}")
        elif is_compared(demo) and abs(demo["metric"] - value) > tolerance:
            faults.append(f"metric {demo['metric']:.4f} is not within {tolerance} of {name}, {value:.4f}")
    own = recomputed.get("model")
    if own is not None and not (is_number(own) and abs(own - demo["metric"]) < 1e-6):
        faults.append(f"the model file scores {own!r} outside the binary, {demo['metric']!r} inside")
    return faults


def is_compared(demo):
    """Whether the demo's model should score as pooled logistic regression does."""
    return demo.get("model", "logistic") == "logistic" and demo.get("label_epsilon") is None


def recompute(demo, out):
    """Trains the pooled model, and scores the demo's model file, with the independent script."""
    what = {key: demo.get(key, default) for key, default in DEFAULTS.items()}
    data = pathlib.Path(what["data_file"])
    command = [sys.executable, str(ROOT / "scripts" / "pooled_logistic.py"),
               "--data", str(data if data.is_absolute() else ROOT / data),
               "--target", what["target"], "--fold", str(what["fold"]),
               "--categorical", ",".join(what["categorical"]), "--ignore", ",".join(what["ignored"])]
    # The demo falls back on accuracy where the held-out rows have one class only.
    metric = {"AUC": "auc"}.get(demo.get("metric_name", "AUC"), "accuracy")
    model = out / "model.json"
    return {"pooled": run_script(command).get(metric),
            "model": run_script([*command, "--model", str(model)]).get(metric)
            if model.exists() else None}


def run_script(command):
    """The JSON object in the last line that the script prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"check_demo: pooled_logistic.py failed:\n{done.stderr.strip()}")
    last = done.stdout.strip().splitlines()[-1:]
    try:
        return json.loads(last[0])
    except (IndexError, ValueError):
        raise SystemExit(f"check_demo: pooled_logistic.py printed no JSON: {done.stdout!r}") from None


def self_test():
    """Each defect must be found, and a sound demo must pass."""
    sound = {"metric": 0.721, "pooled_metric": 0.7253, "model_hash": "a" * 64,
             "plain_model_hash": "a" * 64, "rounds": 12, "bytes_up": 7}
    outside = {"pooled": 0.7251, "model": 0.721}
    assert faults_of(sound, outside, 0.01) == []
    assert faults_of(sound, {"pooled": 0.7251, "model": None}, 0.01) == []
    assert faults_of(sound | {"model": "mlp"}, {"pooled": 0.8, "model": 0.721}, 0.01) == []
    assert faults_of(sound | {"label_epsilon": 4.0}, {"pooled": 0.8, "model": None}, 0.01) == []
    assert faults_of(sound | {"label_epsilon": None}, {"pooled": 0.8, "model": None}, 0.01)
    defects = [({key: value}, {}) for key, value in [
        ("metric", 0.70), ("metric", float("nan")), ("metric", True), ("metric", None),
        ("pooled_metric", 0.75), ("model_hash", "b" * 64), ("plain_model_hash", None),
        ("model_hash", ""), ("rounds", 0), ("rounds", "12"), ("bytes_up", 0)]]
    defects += [({}, change) for change in [
        {"pooled": 0.74}, {"pooled": None}, {"pooled": float("nan")}, {"model": 0.72}]]
    for in_demo, in_outside in defects:
        assert faults_of(sound | in_demo, outside | in_outside, 0.01), (in_demo, in_outside)
    for key in KEYS:
        assert faults_of({k: v for k, v in sound.items() if k != key}, outside, 0.01), key


def main():
    parser = argparse.ArgumentParser(description="Second opinion on a demo.")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "demo-out")
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return
    path = arguments.out / "demo.json"
    try:
        demo = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"check_demo: {path}: {error}") from None
    if not isinstance(demo, dict):
        raise SystemExit(f"check_demo: {path} holds no JSON object")
    recomputed = recompute(demo, arguments.out)
    faults = faults_of(demo, recomputed, arguments.tolerance)
    for fault in faults:
        print(f"check_demo: {fault}", file=sys.stderr)
    if faults:
        raise SystemExit(1)
    print(f"outside the binary: pooled {recomputed['pooled']:.4f}, federated {demo['metric']:.4f}; "
          f"models equal bit for bit: {demo['model_hash'][:16]}…")


if __name__ == "__main__":
    main()
