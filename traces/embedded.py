"""The traces that come with the package, so that the main job needs neither training nor network."""

from pathlib import Path

from traces.errors import UserError

_DATA = Path(__file__).parent / "data"


def embedded_names() -> tuple[str, ...]:
    """Names of the traces in the package."""
    return tuple(sorted(path.stem for path in _DATA.glob("*.safetensors")))


def embedded_trace_path(name: str = "demo") -> Path:
    """File of the embedded trace `name`.

    Raises: UserError if the package has no such trace.
    """
    if name not in embedded_names():
        raise UserError(f"trace={name!r} is not embedded; embedded are {', '.join(embedded_names()) or 'none'}")
    return _DATA / f"{name}.safetensors"


def trace_path(name: str) -> Path:
    """A file of this name, else the embedded trace of this name. Raises: UserError for a plain word that is neither."""
    path = Path(name)
    if path.exists() or path.name != name or path.suffix:
        return path
    if name not in embedded_names():
        raise UserError(f"{name} is no trace file, and of embedded traces there is {', '.join(embedded_names())}")
    return embedded_trace_path(name)
