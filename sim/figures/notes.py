"""The sentences under a figure: what was run, how far to trust it."""

import pandas as pd

SETTINGS = ("trace", "model", "hardware")


def footnote(table: pd.DataFrame, interval: bool) -> str:
    """What a reader must know to judge the figure: label, what was run, intervals, and what is only estimated."""
    label = "/".join(sorted({str(label) for label in table["label"]}))
    settings = [f"{key} {values[0]}" for key in SETTINGS if len(values := values_of(table, key)) == 1]
    batch = values_of(table, "batch_size")
    settings += [f"batch size {batch[0]}"] if len(batch) == 1 else []
    text = f"{label}: {', '.join(settings)}." if settings else f"{label}."
    if interval:
        counts = sorted({int(count) for count in table["requests"]})
        blocks = "requests" if batch == ["1"] else "batches of requests"
        text += f" Bars: 95\u00a0% bootstrap over {' or '.join(map(str, counts))} {blocks}."
    sentences = dict.fromkeys(sentence for one in table["estimated"] for sentence in one)
    return " ".join([text, *(f"ESTIMATED: {sentence.rstrip('.')}." for sentence in sentences)])


def values_of(table: pd.DataFrame, key: str) -> list[str]:
    """The different values of a column as words, sorted; none where it is missing."""
    return sorted({str(value) for value in table[key] if value is not None}) if key in table else []
