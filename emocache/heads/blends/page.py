"""A blend run in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def blend_summary(metrics: Mapping[str, Any]) -> str:
    """A few lines for a terminal."""
    protocol, spread = metrics["protocol"], metrics["spread"]
    lines = [
        f"blend of {', '.join(protocol['runs'])}: {protocol['clips']} clips, {protocol['blends']} of them blends, "
        f"{protocol['folds']} fold(s), {protocol['search']} search",
        f"  honest, thresholds from the other folds   {_three(metrics['honest']['thresholds'])}",
        f"  honest, continuous, no thresholds         {_three(metrics['honest']['continuous'])}",
        f"  each fold by its own thresholds           {_three(metrics['each_fold_by_its_own'])}",
        f"  all clips by their own (optimistic)       {_three(metrics['optimistic'])}",
    ]
    for name in ("alpha", "beta"):
        own = spread[name]
        lines.append(
            f"  {name:<5} {metrics['optimistic'][name]:.3f}; over folds {own['mean']:.3f} +- {own['std']:.3f} "
            f"[{own['min']:.3f}, {own['max']:.3f}]"
        )
    width = max(map(len, protocol["runs"]))
    for name, weight in metrics["weights"].items():
        own = metrics["fold_weights"][name]
        lines.append(
            f"  {name:<{width}}  weight {weight:.3f}   over folds {own['mean']:.3f} +- {own['std']:.3f}   alone "
            f"{_three(metrics['singles'][name])}"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in protocol["notes"])])


def blend_page(metrics: Mapping[str, Any]) -> str:
    """``report.md``."""
    protocol = metrics["protocol"]
    scores = {
        "honest: thresholds from the other folds": metrics["honest"]["thresholds"],
        "honest: continuous salience, no thresholds": metrics["honest"]["continuous"],
        "each fold by its own thresholds (the challenge's way)": metrics["each_fold_by_its_own"],
        "all clips by their own thresholds": metrics["optimistic"],
        **{f"{name} alone, its own thresholds": own for name, own in metrics["singles"].items()},
    }
    rows = [f"| {name} | {s['presence']:.3f} | {s['salience']:.3f} | {s['score']:.3f} |" for name, s in scores.items()]
    folds = [
        f"| {fold['fold']} | {fold['clips']} | {fold['own']['alpha']:.3f} | {fold['own']['beta']:.3f} "
        f"| {fold['own']['score']:.3f} | {fold['from_other_folds']['alpha']:.3f} "
        f"| {fold['from_other_folds']['beta']:.3f} | {fold['from_other_folds']['score']:.3f} |"
        for fold in metrics["folds"]
    ]
    weights = [
        f"| {name} | {weight:.3f} | {metrics['fold_weights'][name]['mean']:.3f} "
        f"± {metrics['fold_weights'][name]['std']:.3f} |"
        for name, weight in metrics["weights"].items()
    ]
    notes = "".join(f"\n- {note}" for note in protocol["notes"])
    return "\n".join(
        [
            f"# blend\n\n{protocol['clips']} clips, {protocol['blends']} blends, {protocol['search']} search.\n",
            "## Scores\n\n| how | ACC_presence | ACC_salience | score |\n| --- | --- | --- | --- |",
            *rows,
            "\n## Thresholds\n\n![score over thresholds, fold by fold](stability.svg)\n",
            "| fold | clips | own alpha | own beta | score | alpha of others | beta of others | score |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *folds,
            "\n## Weights\n\n| run | weight | over folds |\n| --- | --- | --- |",
            *weights,
            *([f"\n## Notes\n{notes}"] if notes else []),
            "",
        ]
    )


def _three(scores: Mapping[str, float]) -> str:
    return f"presence {scores['presence']:.3f}, salience {scores['salience']:.3f}, score {scores['score']:.3f}"
