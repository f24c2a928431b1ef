"""The verb that lets an agent play."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repalign.cli.options import Device, Json, Mirror, Offline, To


def complete_agents(incomplete: str) -> list[str]:
    """Return the names of agents' cards that begin so."""
    from repalign.cards import list_cards, load_model_card

    names = [name for name in list_cards("model") if name.startswith(incomplete)]
    return [name for name in names if load_model_card(name).agent is not None]


def rollout(
    agent: Annotated[
        str,
        typer.Argument(
            help="Name of an agent's card or path of one (.toml); NAME@random is the untrained"
            " twin.",
            autocompletion=complete_agents,
        ),
    ],
    episodes: Annotated[
        int | None, typer.Option(help="Stop after so many; 10 where --steps is not given.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Stop after so many in all, in the midst of an episode.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the environment and of drawn actions.")] = 0,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic/--sample", help="Take the most probable action, or draw one."
        ),
    ] = True,
    epsilon: Annotated[
        float,
        typer.Option(help="Probability of a random action; 1 is the uniformly random policy."),
    ] = 0.0,
    on: Annotated[
        Path | None,
        typer.Option(
            help="Do not play: show the agent the observations of this rollout, a folder that this"
            " verb wrote for another agent."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers, separated by commas; * matches, 'all' is every leaf module. By default"
            " the card's."
        ),
    ] = None,
    to: To = None,
    device: Device = "auto",
    mirror: Mirror = None,
    offline: Offline = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Play again, even if the rollout is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let an agent play, and keep its layers, values and prediction errors for compare."""
    from repalign.agents import (
        load_agent,
        open_rollout,
        rollout_path,
        stored_replay,
        write_rollout,
    )
    from repalign.agents import rollout as run
    from repalign.inputs import split_words
    from repalign.tables import print_records

    where: dict[str, Any] = {"to": to, "mirror": mirror, "offline": offline or None}
    shown: dict[str, Any] = {"layers": split_words(layers), "device": device}
    if on is not None:
        if episodes is not None or steps is not None or epsilon or seed or not deterministic:
            raise ValueError(
                "--on replays what was played, so --episodes, --steps, --seed, --sample and"
                " --epsilon do not apply"
            )
        found, path = stored_replay(agent, on, overwrite=overwrite, **shown, **where)
    else:
        loaded = load_agent(agent, **where)
        episodes = 10 if episodes is None and steps is None else episodes
        how: dict[str, Any] = {
            "episodes": episodes,
            "steps": steps,
            "seed": seed,
            "deterministic": deterministic,
            "epsilon": epsilon,
        }
        path = rollout_path(loaded, to=to, layers=shown["layers"], **how)
        if overwrite or not path.exists():
            write_rollout(run(loaded, progress=True, **how, **shown), path, overwrite=overwrite)
        found = open_rollout(path)
    row = {**found.summary(), "seed": seed if on is None else None, "store": str(path)}
    names = {"layers": list(found.layers), "traces": list(found.traces)}
    if as_json:
        print_records([{**row, **names}], (), as_json=True)
        return
    row |= {
        key: None if value is None else round(value, 2)
        for key, value in row.items()
        if key.endswith(("_mean", "_sd"))
    }
    print_records([row], [key for key in row if key != "store"], as_json=False)
    for kind, members in names.items():
        print(f"{kind}: {', '.join(members)}")
    print(f"store: {path}")
