"""What the models ask of their options and of the shape of their inputs."""


def at_least(least: int, **values: int) -> None:
    """Refuse, by name, an option below ``least``."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")


def image_shape(
    input_shape: tuple[int, ...], model: str, *, least: int = 1
) -> tuple[int, int, int]:
    """Return (channels, height, width), each side at least ``least``, or say what is wrong."""
    if len(input_shape) != 3:
        raise ValueError(
            f"{model} takes images (channels, height, width), but an input here has the shape "
            f"{tuple(input_shape)}; `mlp` takes any shape."
        )
    channels, height, width = input_shape
    if min(height, width) < least:
        raise ValueError(
            f"{model} takes images of at least {least}×{least}, but here they are "
            f"{height}×{width}; `cnn`, `resnet20` and `mlp` take them."
        )
    return channels, height, width
