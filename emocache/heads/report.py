"""A run's scores in words and tables: a few lines for a terminal, a page of Markdown for the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SCORES = {
    "waf": "WAF (weighted F1)",
    "accuracy": "accuracy",
    "uar": "UAR",
    "macro_f1": "macro F1",
    "kl": "KL divergence",
    "ccc": "CCC",
}


def summary(metrics: Mapping[str, Any]) -> str:
    """Scores with intervals and chance, what each modality brings, twenty lines or so."""
    protocol = metrics["protocol"]
    names = [name for name in metrics["metrics"] if name in SCORES or name.startswith("ccc_")]
    lines = [_what(protocol), *(_score_line(name, metrics) for name in names)]
    lines += [*_class_lines(metrics), *_calibration_lines(metrics), *_contribution_lines(metrics)]
    lines.append(_resampling(protocol))
    return "\n".join([*lines, *(f"note: {note}" for note in protocol["notes"])])


def report(metrics: Mapping[str, Any], oof: pd.DataFrame, fold_names: Sequence[str]) -> str:
    """The whole story of a run as Markdown: protocol, scores, classes, confusion, calibration, modalities, folds."""
    protocol = metrics["protocol"]
    sections = [
        f"# {protocol['head']}\n\n{_what(protocol)}. No clip is scored by a model that was trained on it.",
        "## Scores\n\n" + _scores_table(metrics) + f"\n\n{_resampling(protocol)}",
    ]
    if "classes" in metrics:
        sections += [
            "## Classes\n\n" + _classes_table(metrics),
            "## Confusion\n\nRows are true, columns predicted.\n\n" + _confusion_table(metrics),
            "## Calibration\n\n" + _calibration_text(metrics["calibration"]),
            "## Folds\n\n" + _folds_table(metrics["classes"], oof, fold_names),
        ]
        if metrics["oracle"]:
            sections.insert(3, "## Oracle top-k\n\n" + _oracle_table(metrics))
    if metrics["contributions"]:
        sections.append("## Modalities\n\n" + _contributions_table(metrics))
    if "seeds" in metrics:
        sections.append("## Seeds\n\n" + _seeds_table(metrics))
    if "layer_weights" in metrics:
        sections.append("## Layer weights\n\n" + _layers_table(metrics["layer_weights"]))
    if protocol["notes"]:
        sections.append("## Notes\n\n" + "\n".join(f"- {note}" for note in protocol["notes"]))
    return "\n\n".join(sections) + "\n"


# --- lines for a terminal --------------------------------------------------------------------------------------------


def _what(protocol: Mapping[str, Any]) -> str:
    runs = f"{protocol['seeds']} seeds from {protocol['seed']}" if protocol["seeds"] > 1 else f"seed {protocol['seed']}"
    return (
        f"{protocol['head']} on {', '.join(protocol['features'])}: {protocol['scored']} clips scored in "
        f"{protocol['fold_count']} fold(s) ({protocol['folds']}), normalize {protocol['normalize']}, {runs}"
    )


def title(name: str) -> str:
    """What a score is called for a person."""
    kind, _, dimension = name.partition("_")
    if name in SCORES or not dimension:
        return SCORES.get(name, name)
    return f"{kind.upper()} {dimension}"


def _score_line(name: str, metrics: Mapping[str, Any]) -> str:
    low, high = metrics["intervals"][name]
    spread = f"   ± {metrics['spread'][name]:.3f}" if "spread" in metrics else ""
    tail = _chance(name, metrics["protocol"])
    line = f"  {title(name):<18} {metrics['metrics'][name]:.3f}   [{low:.3f}, {high:.3f}]{spread}"
    return line + (f"   {tail}" if tail else "")


def _chance(name: str, protocol: Mapping[str, Any]) -> str:
    chance = protocol.get("chance", {})
    return {
        "uar": f"chance {chance.get('uar', 0):.3f}",
        "accuracy": f"largest class {chance.get('majority_accuracy', 0):.3f}",
    }.get(name, "")


def _class_lines(metrics: Mapping[str, Any]) -> list[str]:
    if "classes" not in metrics:
        return []
    hardest = sorted(metrics["per_class"].items(), key=lambda item: item[1]["f1"])
    shown = ", ".join(f"{name} {row['f1']:.2f}" for name, row in reversed(hardest))
    return [f"  F1 by class: {shown}"]


def _calibration_lines(metrics: Mapping[str, Any]) -> list[str]:
    if "calibration" not in metrics:
        return []
    calibration = metrics["calibration"]
    line = f"  calibration error {calibration['ece']['value']:.3f}"
    if "ece_tempered" in calibration:
        line += (
            f", {calibration['ece_tempered']['value']:.3f} at a temperature fitted on other folds "
            f"({calibration['temperature_for_new_clips']:.2f} for new clips)"
        )
    return [line]


def _contribution_lines(metrics: Mapping[str, Any]) -> list[str]:
    found = metrics["contributions"]
    first = next(iter(metrics["metrics"]))
    lines = []
    for modality, kinds in found.items():
        if "without" not in kinds:
            continue
        lost = metrics["metrics"][first] - kinds["without"][first]
        low, high = kinds["lost_interval"][first]
        name = title(first).partition(" (")[0]
        lines.append(
            f"  {modality:<6} brings {lost:+.3f} {name} [{low:+.3f}, {high:+.3f}]; alone {kinds['alone'][first]:.3f}"
        )
    return lines


def _resampling(protocol: Mapping[str, Any]) -> str:
    how = protocol["intervals"]
    spread = ", ± is the standard deviation over seeds" if protocol["seeds"] > 1 else ""
    return f"{100 * how['level']:.0f} % intervals: bootstrap over {how['over']}, {how['rounds']} rounds{spread}"


# --- tables ----------------------------------------------------------------------------------------------------------


def _scores_table(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, value in metrics["metrics"].items():
        low, high = metrics["intervals"][name]
        row = [title(name), f"{value:.3f}", f"{low:.3f} to {high:.3f}"]
        if "spread" in metrics:
            row += [f"{metrics['spread'][name]:.3f}", f"{metrics['ensemble'][name]:.3f}"]
        rows.append([*row, _chance(name, metrics["protocol"])])
    seeds = ["deviation over seeds", "mean prediction"] if "spread" in metrics else []
    return _table(["score", "value", "interval", *seeds, "for comparison"], rows)


def _classes_table(metrics: Mapping[str, Any]) -> str:
    columns = ["precision", "recall", "f1"]
    rows = [
        [name, *(f"{row[column]:.3f}" for column in columns), str(row["support"])]
        for name, row in metrics["per_class"].items()
    ]
    return _table(["class", *columns, "clips"], rows)


def _oracle_table(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, found in metrics["oracle"].items():
        k, _, score = name.removeprefix("top").partition("_")
        low, high = found["interval"]
        rows.append([k, title(score), f"{found['value']:.3f}", f"{low:.3f} to {high:.3f}"])
    return "Right if the true class is among the k most probable.\n\n" + _table(
        ["k", "score", "value", "interval"], rows
    )


def _confusion_table(metrics: Mapping[str, Any]) -> str:
    rows = zip(metrics["classes"], metrics["confusion"], strict=True)
    return _table(["", *metrics["classes"]], [[name, *map(str, counts)] for name, counts in rows])


def _calibration_text(calibration: Mapping[str, Any]) -> str:
    low, high = calibration["ece"]["interval"]
    text = f"Expected calibration error {calibration['ece']['value']:.3f} [{low:.3f}, {high:.3f}]"
    if "ece_tempered" in calibration:
        low, high = calibration["ece_tempered"]["interval"]
        text += (
            f"; {calibration['ece_tempered']['value']:.3f} [{low:.3f}, {high:.3f}] at temperatures that were fitted on "
            f"other folds. For new clips: {calibration['temperature_for_new_clips']:.2f}"
        )
    rows = [[str(row["clips"]), f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}"] for row in calibration["bins"]]
    return text + ".\n\n" + _table(["clips", "mean confidence", "accuracy"], rows)


def _folds_table(classes: Sequence[str], oof: pd.DataFrame, fold_names: Sequence[str]) -> str:
    columns = [f"p_{name}" for name in classes]
    rows = []
    for fold, part in oof.groupby("fold"):
        predicted = [classes[i] for i in part[columns].to_numpy().argmax(axis=1)]
        hits = sum(guess == label for guess, label in zip(predicted, part["label"], strict=True))
        number = int(str(fold))
        name = "test, by all folds" if number < 0 else fold_names[number]
        rows.append(["all" if number < 0 else str(fold), name, str(len(part)), f"{hits / len(part):.3f}"])
    return _table(["fold", "scored", "clips", "accuracy"], rows)


def _contributions_table(metrics: Mapping[str, Any]) -> str:
    first = next(iter(metrics["metrics"]))
    columns = {"without": "without it", "alone": "it alone", "auxiliary": "its auxiliary head"}
    shown = {
        kind: head for kind, head in columns.items() if any(kind in row for row in metrics["contributions"].values())
    }
    rows = []
    for modality, kinds in metrics["contributions"].items():
        lost = ""
        if "without" in kinds:
            low, high = kinds["lost_interval"][first]
            lost = f"{metrics['metrics'][first] - kinds['without'][first]:+.3f} [{low:+.3f}, {high:+.3f}]"
        values = [f"{kinds[kind][first]:.3f}" if kind in kinds else "" for kind in shown]
        rows.append([modality, *values, lost])
    text = (
        f"{title(first)} of the same models, not trained again, where a modality is withheld from the clips scored.\n\n"
    )
    return text + _table(["modality", *shown.values(), "what is lost without it"], rows)


def _seeds_table(metrics: Mapping[str, Any]) -> str:
    names = list(metrics["metrics"])
    first = metrics["protocol"]["seed"]
    rows = [[str(first + run), *(f"{row[name]:.3f}" for name in names)] for run, row in enumerate(metrics["seeds"])]
    return _table(["seed", *map(title, names)], rows)


def _layers_table(weights: Mapping[str, Any]) -> str:
    rows = [
        [feature, str(layer), f"{mean:.3f}", f"{spread:.3f}"]
        for feature, row in weights.items()
        for layer, mean, spread in zip(row["layers"], row["mean"], row["spread"], strict=True)
    ]
    return _table(["feature", "layer", "weight", "deviation over models"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
