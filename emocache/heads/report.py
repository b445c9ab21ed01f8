"""A run's scores in words and tables: a few lines for a terminal, a page of Markdown for the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SCORES = {"uar": "UAR", "waf": "WAF (weighted F1)", "accuracy": "accuracy", "macro_f1": "macro F1"}


def summary(metrics: Mapping[str, Any]) -> str:
    """Scores with intervals and chance, ten lines or so."""
    protocol = metrics["protocol"]
    lines = [_what(protocol)]
    for name, title in SCORES.items():
        low, high = metrics["intervals"][name]
        lines.append(f"  {title:<18} {metrics['metrics'][name]:.3f}   [{low:.3f}, {high:.3f}]{_chance(name, protocol)}")
    lines.append(_resampling(protocol))
    return "\n".join([*lines, *(f"note: {note}" for note in protocol["notes"])])


def report(metrics: Mapping[str, Any], oof: pd.DataFrame, fold_names: Sequence[str]) -> str:
    """The whole story of a run as Markdown: protocol, scores, classes, confusion, folds."""
    protocol = metrics["protocol"]
    sections = [
        f"# {protocol['head']}\n\n{_what(protocol)}. All scores are out of fold.",
        "## Scores\n\n" + _scores_table(metrics) + f"\n\n{_resampling(protocol)}",
        "## Classes\n\n" + _classes_table(metrics),
        "## Confusion\n\nRows are true, columns predicted.\n\n" + _confusion_table(metrics),
        "## Folds\n\n" + _folds_table(metrics["classes"], oof, fold_names),
    ]
    if protocol["notes"]:
        sections.append("## Notes\n\n" + "\n".join(f"- {note}" for note in protocol["notes"]))
    return "\n\n".join(sections) + "\n"


def _what(protocol: Mapping[str, Any]) -> str:
    return (
        f"{protocol['head']} on {', '.join(protocol['features'])}: {protocol['scored']} clips scored in "
        f"{protocol['fold_count']} fold(s) ({protocol['folds']}), normalize {protocol['normalize']}, "
        f"seed {protocol['seed']}"
    )


def _chance(name: str, protocol: Mapping[str, Any]) -> str:
    chance = protocol["chance"]
    return {
        "uar": f"   chance {chance['uar']:.3f}",
        "accuracy": f"   largest class {chance['majority_accuracy']:.3f}",
    }.get(name, "")


def _resampling(protocol: Mapping[str, Any]) -> str:
    how = protocol["intervals"]
    return f"{100 * how['level']:.0f} % intervals: bootstrap over {how['over']}, {how['rounds']} rounds"


def _scores_table(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, title in SCORES.items():
        low, high = metrics["intervals"][name]
        value = metrics["metrics"][name]
        rows.append([title, f"{value:.3f}", f"{low:.3f} to {high:.3f}", _chance(name, metrics["protocol"]).strip()])
    return _table(["score", "value", "interval", "for comparison"], rows)


def _classes_table(metrics: Mapping[str, Any]) -> str:
    columns = ["precision", "recall", "f1"]
    rows = [
        [name, *(f"{row[column]:.3f}" for column in columns), str(row["support"])]
        for name, row in metrics["per_class"].items()
    ]
    return _table(["class", *columns, "clips"], rows)


def _confusion_table(metrics: Mapping[str, Any]) -> str:
    rows = zip(metrics["classes"], metrics["confusion"], strict=True)
    return _table(["", *metrics["classes"]], [[name, *map(str, counts)] for name, counts in rows])


def _folds_table(classes: Sequence[str], oof: pd.DataFrame, fold_names: Sequence[str]) -> str:
    columns = [f"p_{name}" for name in classes]
    rows = []
    for fold, part in oof.groupby("fold"):
        predicted = [classes[i] for i in part[columns].to_numpy().argmax(axis=1)]
        hits = sum(guess == label for guess, label in zip(predicted, part["label"], strict=True))
        rows.append([str(fold), fold_names[int(str(fold))], str(len(part)), f"{hits / len(part):.3f}"])
    return _table(["fold", "scored", "clips", "accuracy"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
