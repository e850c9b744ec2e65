"""Which column of a table of routing holds what: by the names that tools give them, or as the command line says."""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from traces.errors import UserError

LAYER, EXPERT = "layer", "experts"
NAMES: dict[str, str] = {
    "request": "request request_id req req_id rid seq seq_id sequence sequence_id sample sample_id prompt_id example "
    "example_id doc doc_id",
    "dialogue": "dialogue dialogue_id dialog dialog_id conversation conversation_id conv_id session session_id chat "
    "chat_id",
    "turn": "turn turn_index turn_idx turn_id",
    "step": "step step_id forward_id forward forward_pass pass pass_id iteration iter",
    "token": "token token_idx token_index token_position token_pos token_num tok tok_idx pos position position_id",
    LAYER: "layer layer_idx layer_index layer_id layer_num layer_number moe_layer layer_name block_idx block_id il",
    "rank": "rank topk_rank expert_rank rank_idx",
    "slot": "slot slot_idx topk_slot k k_idx k_index",
    EXPERT: "experts expert expert_id expert_ids expert_idx expert_index expert_indices expert_list selected_experts "
    "selected_expert selected_expert_ids selected_ids topk_ids topk_experts topk_indices topk_idx top_k_ids "
    "top_k_indices top_k_experts top_indices top_experts routed_experts activated_experts activated_expert_ids "
    "active_experts chosen_experts",
    "weights": "weights weight gate_weights gate_weight gate_probs gate_prob expert_weights expert_weight "
    "selected_expert_weights selected_probabilities selected_probs selected_weights topk_weights topk_weight "
    "topk_probs top_k_weights routing_weights routing_weight top_weights top_probs probs prob probabilities "
    "probability",
    "scores": "scores router_logits gate_logits logits router_scores gate_scores router_probs gate_probabilities "
    "score logit gate_score",
    "phase": "phase is_decode is_prefill is_prompt is_generated",
    "token_id": "token_id tok_id input_id token_ids",
}
"""Role -> names of columns that are recognised for it, the surest first."""
ROLES = {role: tuple(names.split()) for role, names in NAMES.items()}
SEVERAL = (EXPERT, "weights")
"""Roles that columns name_0, name_1, ... may hold together, one per rank."""
_NUMBERED = re.compile(r"(.*?)_?(\d{1,4})$", re.DOTALL)
_NOTHING = "none"


@dataclass(frozen=True, slots=True)
class Layout:
    """Role -> its columns: one, or one per rank; and the columns that hold nothing that a trace has."""

    columns: dict[str, tuple[str, ...]]
    unused: tuple[str, ...] = ()

    def has(self, role: str) -> bool:
        """Whether the table has a column for `role`."""
        return role in self.columns


def add_column_options(parser: argparse.ArgumentParser) -> None:
    """Add --ROLE NAME for every role."""
    for role, names in ROLES.items():
        several = "; NAME,NAME,... where each rank has its own" if role in SEVERAL else ""
        text = f"column of that name ({names[0]}, {names[1]}, ... are recognised; none: there is none{several})"
        parser.add_argument(f"--{role.replace('_', '-')}", metavar="NAME", help=text)


def chosen_columns(options: argparse.Namespace) -> dict[str, tuple[str, ...] | None]:
    """What the command line says of columns: role -> columns, None for one that is not to be read."""
    given = {role: getattr(options, role, None) for role in ROLES}
    return {
        role: None if name == _NOTHING else tuple(name.split(",") if role in SEVERAL else [name])
        for role, name in given.items()
        if name is not None
    }


def plain_name(name: str) -> str:
    """A column's name without case, blanks and signs: "Layer ID", "layerId" and "layer-id" are all layer_id."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^0-9a-z]+", "_", parted.lower()).strip("_")


def recognise(
    source: str, names: Sequence[str], chosen: Mapping[str, tuple[str, ...] | None], known: Sequence[str] = ()
) -> Layout:
    """The layout of a table with columns `names`; `chosen`: roles that are settled; `known`: columns without a role.

    Raises: UserError for a column that is not there, is there twice, or that no trace can do without.
    """
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise UserError(f"{source} has the column {twice[0]!r} twice: must be different names")
    columns: dict[str, tuple[str, ...]] = {}
    for role, wanted in chosen.items():
        if wanted is None:
            continue
        for name in wanted:
            if name not in names:
                raise UserError(f"{source} has no column {name!r} for {role}; {nearest(name, names)}")
        columns[role] = wanted
    free = [name for name in names if name not in known and not any(name in taken for taken in columns.values())]
    for role in ROLES:
        if role not in chosen and (found := _find(role, free)):
            columns[role] = found
            free = [name for name in free if name not in found]
    if "rank" in columns and "slot" in columns and "slot" not in chosen:
        free += columns.pop("slot")
    for role in (LAYER, EXPERT):
        if role not in columns:
            raise UserError(
                f"{source} has no column that is recognised as {role}: name it with --{role}; "
                f"it has {', '.join(map(repr, names[:20])) or 'no columns'}"
            )
    return Layout(columns, tuple(free))


def _find(role: str, free: Sequence[str]) -> tuple[str, ...] | None:
    """The column that fits a role best, or its numbered columns."""
    plain = {plain_name(name): name for name in reversed(free)}
    for name in ROLES[role]:
        if name in plain:
            return (plain[name],)
    if role not in SEVERAL:
        return None
    numbered: dict[str, dict[int, str]] = {}
    for name in free:
        match = _NUMBERED.fullmatch(plain_name(name))
        if match and match[1] in (*ROLES[role], *(("e", "top") if role == EXPERT else ("w",))):
            numbered.setdefault(match[1], {})[int(match[2])] = name
    best = max(numbered.values(), key=len, default={})
    if best and sorted(best) != list(range(min(best), min(best) + len(best))):
        return None
    return tuple(best[number] for number in sorted(best)) or None


def nearest(name: str, names: Sequence[str]) -> str:
    """Ends a sentence about a wrong name: what it may have been meant to be."""
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in names], 1, 0.6)
    hits = [known for known in names if close and known.lower() == close[0]]
    return f"nearest is {hits[0]!r}" if hits else f"known are {', '.join(map(repr, names[:20]))}"
