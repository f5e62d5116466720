"""How many places a sliding window has, and how far a transposed one spreads: the lengths behind the channel axis."""

from __future__ import annotations

from onnxinit.analysis.view import Node

Lengths = tuple["int | None", ...]


def slide(node: Node, sizes: Lengths, kernel: Lengths) -> Lengths:
    """Lengths after a convolution or a pooling (ONNX, Conv and MaxPool); zero where the window does not fit.

    Args:
        node: Its attributes are read.
        sizes: The lengths of the input.
        kernel: The lengths of the window.
    """
    if len(sizes) != len(kernel):
        return (None,) * len(kernel)
    steps, dilations, pads = _attributes(node, len(kernel))
    auto, up = node.string_attribute("auto_pad", "NOTSET"), node.int_attribute("ceil_mode", 0)
    found: list[int | None] = []
    for i, (n, k) in enumerate(zip(sizes, kernel, strict=True)):
        if n is None or k is None:
            found.append(None)
        elif auto.startswith("SAME"):
            found.append(-(-n // steps[i]))
        else:
            room = n + pads[i] + pads[i + len(kernel)] - dilations[i] * (k - 1) - 1
            places = (-(-room // steps[i]) if up else room // steps[i]) + 1
            # Rounded up, a window that would start in the padding behind does not count.
            late = up and (places - 1) * steps[i] >= n + pads[i]
            found.append(max(0, places - 1 if late else places))
    return tuple(found)


def spread(node: Node, sizes: Lengths, kernel: Lengths) -> Lengths:
    """Lengths after a transposed convolution (ONNX, ConvTranspose)."""
    if len(sizes) != len(kernel):
        return (None,) * len(kernel)
    given = node.ints_attribute("output_shape")
    if given:
        return tuple(given[-len(kernel) :])
    steps, dilations, pads = _attributes(node, len(kernel))
    more = node.ints_attribute("output_padding") or [0] * len(kernel)
    same = node.string_attribute("auto_pad", "NOTSET").startswith("SAME")
    found: list[int | None] = []
    for i, (n, k) in enumerate(zip(sizes, kernel, strict=True)):
        if n is None or k is None:
            found.append(None)
        elif same:
            found.append(n * steps[i])
        else:
            whole = steps[i] * (n - 1) + more[i] + dilations[i] * (k - 1) + 1
            found.append(max(0, whole - pads[i] - pads[i + len(kernel)]))
    return tuple(found)


def leading(node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Of every axis its stride, its dilation and what is padded before it, auto_pad worked out.

    Args:
        node: A convolution or a pooling, or a transposed convolution without auto_pad.
        sizes: The lengths of the input.
        kernel: The lengths of the window.
    """
    steps, dilations, pads = _attributes(node, len(kernel))
    auto = node.string_attribute("auto_pad", "NOTSET")
    found: list[tuple[int, int, int]] = []
    for n, k, s, d, before in zip(sizes, kernel, steps, dilations, pads[: len(kernel)], strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        same = total // 2 if auto == "SAME_UPPER" else total - total // 2
        found.append((s, d, same if auto.startswith("SAME") else before))
    return found


def _attributes(node: Node, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and padding (before each axis, then behind each)."""
    pads = node.ints_attribute("pads")
    if pads is None or node.string_attribute("auto_pad", "NOTSET") == "VALID":
        pads = [0] * 2 * rank
    return node.ints_attribute("strides") or [1] * rank, node.ints_attribute("dilations") or [1] * rank, pads
