"""Speed of packed weights beside torch's own linear maps, bias included.

python tests/measure_products.py     # the table of docs/engine.md
"""

import time

import torch

from harness.engine.local.layers.packed_weights import PackedLinear
from harness.engine.local.layers.reproducibility import fix_order_of_sums
from harness.engine.local.loading import choose_dtype

SHAPES = [(256, 1024), (512, 2048), (2048, 512), (768, 3072), (4096, 4096)]
ROWS = [1, 8, 32, 256, 2048]
ROUNDS = 15


def ratio(layer, packed, rows):
    """torch's time over that of packed weights, each the best of some calls in turn."""
    best = {layer: float("inf"), packed: float("inf")}
    for _ in range(ROUNDS):
        for module in best:
            module(rows)
            started = time.perf_counter()
            module(rows)
            best[module] = min(best[module], time.perf_counter() - started)
    return best[layer] / best[packed]


@torch.inference_mode()
def main():
    fix_order_of_sums()
    native = choose_dtype("auto", torch.device("cpu"))
    print("| weights, rows | " + " | ".join(f"{n:,}" for n in ROWS) + " |")
    print("|---" * (len(ROWS) + 1) + "|")
    for dtype in dict.fromkeys((torch.float32, native)):
        for n_in, n_out in SHAPES:
            layer = torch.nn.Linear(n_in, n_out, dtype=dtype)
            packed = PackedLinear(layer.weight, layer.bias)
            found = [ratio(layer, packed, torch.randn(1, n, n_in).to(dtype)) for n in ROWS]
            name = str(dtype).removeprefix("torch.")
            print(f"| {n_in:,} x {n_out:,}, {name} | " + " | ".join(f"{x:.2f} x" for x in found) + " |")


if __name__ == "__main__":
    main()
